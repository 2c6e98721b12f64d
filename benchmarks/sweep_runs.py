"""Times `prompt-jax sweep` against `prompt-jax train` once for each member.

    python benchmarks/sweep_runs.py --model mini --members 8 --steps 300

All are whole commands, from start to export, seeds 0 to members - 1. The
first round finds no compiled programs, the next those of rounds before; the
sweep and the runs keep theirs apart. One JSON line goes to stdout: `ratio` is
sweep / sum of the runs, a figure a round, smaller is better, and `difference`
the greatest between a prompt of the sweep and the same trained alone.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

_HERE = pathlib.Path(__file__).parent
if not __package__:  # run as a file
  sys.path[0] = str(_HERE.parent)

from benchmarks import counts  # noqa: E402
from prompt_jax import ginfiles  # noqa: E402
from prompt_jax.errors import UserError  # noqa: E402


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],
    epilog='Any value of the gin files: --gin.NAME=VALUE.',
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--model', default='mini', help='models/<name>.gin, or a file')
  add('--method', default='prompt', help='methods/<name>.gin')
  add('--task', default='movie_sentiment')
  add('--members', type=int, default=8, help='prompts, a seed each')
  add('--steps', type=int, default=300, help='of each prompt')
  add('--batch', type=int, default=32, help='examples of a step of each')
  add('--rounds', type=int, default=2, help='times that all is done')
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  return parser


class Commands:
  """The sweep and the runs of one invocation, below a folder."""

  def __init__(self, args, folder: pathlib.Path):
    self.args, self.folder = args, folder

  def _command(self, name: str, cache: str, model_dir, *more: str) -> float:
    """Seconds of one command."""
    args = self.args
    model = args.model
    if not model.endswith('.gin'):
      model = f'models/{model}.gin'
    kind = 'sweep' if name == 'sweep' else 'train'
    bindings = [
      f'MIXTURE_OR_TASK_NAME={args.task}',
      f'MODEL_DIR={model_dir}',
      f'TRAIN_STEPS={args.steps}',
      f'BATCH_SIZE={args.batch}',
      *more,
      *args.gin_bindings,
    ]
    command = [
      *(sys.executable, '-m', f'prompt_jax.{name}', f'--gin_file={model}'),
      f'--gin_file=methods/{args.method}.gin',
      f'--gin_file=runs/{kind}.gin',
      *(f'--gin.{binding}' for binding in bindings),
    ]
    kept = {'JAX_COMPILATION_CACHE_DIR': str(self.folder / cache)}
    began = time.perf_counter()
    done = subprocess.run(
      command,
      cwd=_HERE.parent,
      env=os.environ | kept,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    if done.returncode:
      said = done.stderr[-2000:]
      raise UserError(f'{" ".join(command)}\nended with:\n{said}')
    return time.perf_counter() - began

  def round(self, number: int) -> tuple[float, float, float]:
    """Seconds of the sweep and of the runs; how far their prompts differ."""
    args, seeds = self.args, range(self.args.members)
    stacked = self.folder / f'sweep_{number}'
    alone = self.folder / f'alone_{number}'
    sweep = self._command(
      'sweep', 'of_sweep', stacked, f'SWEEP_SEEDS={list(seeds)}'
    )
    runs = sum(
      self._command(
        'train', 'of_runs', alone / f'seed_{seed}', f'RANDOM_SEED={seed}'
      )
      for seed in seeds
    )
    differences = []
    for seed in seeds:
      name = f'seed_{seed}/prompts/{args.steps}/{args.task}.npy'
      one, other = (
        np.load(where / name, allow_pickle=False) for where in (stacked, alone)
      )
      differences.append(np.abs(one - other).max())
    return sweep, runs, float(np.max(differences))  # a NaN stays one


def measure(args) -> dict:
  """All figures; lists have an entry a round."""
  with tempfile.TemporaryDirectory() as folder:
    commands = Commands(args, pathlib.Path(folder))
    rounds = [commands.round(number) for number in range(args.rounds)]
  sweep, runs, differences = zip(*rounds, strict=True)
  return {
    'model': args.model,
    'task': args.task,
    'members': args.members,
    'steps': args.steps,
    'batch': args.batch,
    'sweep_seconds': sweep,
    'runs_seconds': runs,
    'ratio': [one / all_ for one, all_ in zip(sweep, runs, strict=True)],
    'difference': float(np.max(differences)),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    counts.at_least_one(args, 'members', 'steps', 'batch', 'rounds')
    found = measure(args)
  except UserError as error:
    print(f'sweep_runs.py: {error}', file=sys.stderr)
    return 2
  print(json.dumps(found), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
