"""`prompt-jax transfer speed`: steps that an initial value saves.

prompt-jax transfer speed --scratch runs/own --started runs/from_projected
"""

import argparse

from prompt_jax.transfer import speed


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of the action."""
  add = parser.add_argument
  add('--scratch', required=True, help='MODEL_DIR of the run from scratch')
  add('--started', required=True, help='MODEL_DIR of the run from a prompt')
  add('--metric', default='accuracy')


def run(args: argparse.Namespace) -> list[str]:
  """Compares. Returns: what is printed."""
  runs = (args.scratch, args.started)
  return speed.table(
    speed.speedup(*(speed.curve(folder, args.metric) for folder in runs))
  )
