"""`prompt-jax`, and `python -m prompt_jax`, which is the same."""

import sys

from prompt_jax import huge_pages


def command() -> int:
  """Runs the command of this process; returns its exit status."""
  huge_pages.restart()
  from prompt_jax import cli  # only now: what it imports is imported once

  return cli.main()


if __name__ == '__main__':
  sys.exit(command())
