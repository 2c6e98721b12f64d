"""A training run that is struck down at a given point of its life.

    python -m tests.interrupted_runner POINT train --gin_file=...

POINT: 'kill-step-N' and 'term-step-N' (after N updates), 'term-eval-N' (as the
evaluation of step N begins), 'kill-save-N' (the checkpoint of step N is
written but has not got its name), 'kill-file-N' (its first file is opened).
"""

import os
import pathlib
import signal
import sys

from prompt_jax import cli, session
from prompt_jax.training import progress


def strike(how):
  """Sends this process the signal; after SIGKILL nothing more happens."""
  os.kill(os.getpid(), {'kill': signal.SIGKILL, 'term': signal.SIGTERM}[how])


def before(function, when, how):
  """The function, struck before it runs if `when(*args)`."""

  def struck(*args):
    if when(*args):
      strike(how)
    return function(*args)

  return struck


def watch_files(what, step):
  """Strikes when the checkpoint's folder is renamed, or opened for writing."""

  def hook(event, args):
    if what == 'save' and event == 'os.rename':
      path = pathlib.Path(os.fsdecode(args[1]))
      if path.name == step and path.parent.name == 'checkpoints':
        strike('kill')
    elif what == 'file' and event == 'open' and isinstance(args[0], str):
      if f'checkpoints/{step}.' in args[0] and args[1] and 'w' in args[1]:
        strike('kill')

  sys.addaudithook(hook)


def prepare(point):
  how, what, step = point.split('-')
  if what == 'step':
    shown = lambda _, number, metrics: number == int(step)
    progress.Progress.show = before(progress.Progress.show, shown, how)
  elif what == 'eval':
    begun = lambda _, state: int(state.step) == int(step)
    session.Session.evaluate = before(session.Session.evaluate, begun, how)
  else:
    watch_files(what, step)


if __name__ == '__main__':
  prepare(sys.argv[1])
  sys.exit(cli.main(sys.argv[2:]))
