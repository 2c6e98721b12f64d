"""Prompt length against initialisation: figure 3 of Lester et al. 2021, small.

    python -m launch.figures.lengths --model mini --task movie_sentiment \
      --lengths 1 5 20 50 --seeds 0 1 2 --steps 300 --out runs/figures

Appends a line to OUT/results.jsonl when a cell is done; the same command goes
on where it stopped. Then draws OUT/<model>_<task>.png and prints a Markdown
table. Accuracy is that of the validation split after the last step, as in the
paper; nothing is chosen by it.
"""

import argparse
from collections.abc import Iterator
import pathlib
from typing import Any

import numpy as np

from launch import results, tuning
from launch.figures import lines
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import local

METRIC = 'accuracy'
TRANSFERRED = 'from_file'
USUAL = 'tweet_sentiment'  # whose shipped prompt that is, unless told
INITS = (
  'random_uniform',
  'from_sampled_vocab',
  'from_class_labels',
  TRANSFERRED,
)


def stretched(prompt: np.ndarray, length: int) -> np.ndarray:
  """A prompt of another length: row i is row i mod P of the one given.

  Args:
    prompt: [P,H].
    length: rows of the result.
  """
  return prompt[np.arange(length) % len(prompt)]


def start_settings(
  init: str,
  length: int,
  task: local.FileTask,
  source: str | None,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """What the gin file of an initialiser asks for.

  Labels past the last row are left out, as the released code of the paper
  does. A transferred prompt is cut, or its rows repeated, to the length.
  """
  if init == 'from_class_labels':
    return {'CLASS_LABELS': task.target_texts()[:length]}
  if init == TRANSFERRED:
    array, sidecar = saved.load(source)
    file = folder / f'{pathlib.Path(source).stem}.npy'
    saved.save(file, stretched(array, length), sidecar or {})
    return {'PROMPT_FILE': str(file), 'ALLOW_OTHER_BASE': True}
  return {}


def cells(args) -> Iterator[dict[str, Any]]:
  """The fields that tell one cell from another, settings included."""
  weights = tuning.weights(args.model)
  for seed in args.seeds:  # the figure has all its points after one seed
    for init in args.inits:
      for length in args.lengths:
        yield {
          'model': pathlib.Path(args.model).stem,
          'weights': weights,
          'task': args.task,
          'init': init,
          'length': length,
          'seed': seed,
          'steps': args.steps,
          'rate': args.rate,
          'batch_size': args.batch_size,
          'source': args.source if init == TRANSFERRED else None,
        }


def run_cell(cell: dict[str, Any], args, out: pathlib.Path) -> dict[str, Any]:
  """Tunes one cell: its fields, accuracy, step and digest of the base."""
  task, init, length = local.shipped(cell['task']), cell['init'], cell['length']
  name = '_'.join(str(cell[k]) for k in ('model', 'task', 'init', 'length'))
  folder = (
    out / 'cells' / f'{name}_{cell["seed"]}_{cell["steps"]}_{cell["weights"]}'
  )
  settings = {
    'PROMPT_LENGTH': length,
    'SCHEDULE': 'linear',
    **lines.settings(cell),
    **start_settings(init, length, task, cell['source'], folder),
  }
  start = f'prompts/{init}.gin'
  tuned = tuning.tune(args.model, task, folder, settings, start=start)
  return {**cell, **tuned.figures(METRIC)}


def grouped(found: list[results.Row], inits) -> dict[str, list[results.Row]]:
  """{initialiser: its rows}."""
  return {init: [r for r in found if r['init'] == init] for init in inits}


def arguments(argv=None) -> argparse.Namespace:
  parser = lines.parser(__doc__, 'runs/figures')
  add = parser.add_argument
  add('--task', default='movie_sentiment')
  add('--lengths', nargs='+', type=int, default=[1, 5, 20, 50])
  add('--inits', nargs='+', choices=INITS, help='default: all there can be')
  add('--source', help=f'[P,H] .npy that {TRANSFERRED} reads; shipped: {USUAL}')
  add('--rate', type=float, default=0.3)
  args = parser.parse_args(argv)
  if args.source is None:
    base = pathlib.Path(pretrained.resolve(tuning.base(args.model)))
    shipped = base / 'prompts' / f'{USUAL}.npy'
    args.source = str(shipped) if shipped.is_file() else None
  args.inits = args.inits or INITS[: 4 if args.source else 3]
  if TRANSFERRED in args.inits and args.source is None:
    parser.error(f'--inits {TRANSFERRED} needs --source, a saved prompt (.npy)')
  return args


def main(argv=None) -> None:
  args = arguments(argv)
  rows = lines.filled(
    args,
    list(cells(args)),
    run_cell,
    lambda row: (
      f'{row["init"]} {row["length"]} seed {row["seed"]}: {row[METRIC]:.1f}'
    ),
  )
  labels = {'xlabel': 'prompt length', 'ylabel': 'validation accuracy, %'}
  title = f'{pathlib.Path(args.model).stem}, {args.task}'
  groups = grouped(rows, args.inits)
  lines.show(groups, 'length', METRIC, args.out, title=title, **labels)


if __name__ == '__main__':
  main()
