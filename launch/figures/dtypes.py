"""The curve of a prompt with products in float32, in bfloat16 and over int8.

    python -m launch.figures.dtypes --model mini --seeds 0 1 2 --steps 300 \
      --tasks movie_sentiment gloss_supersense word_relation

'int8' keeps the frozen kernels in int8, the other two in float32 and bfloat16
as training does. Settings else are the defaults of `methods/prompt.gin`.
Appends to OUT/results.jsonl; the same command goes on where it stopped. Then
draws OUT/<model>_<task>.png, accuracy of the validation split over steps, and
prints a table of the last step: an accuracy of n examples has a standard error
of sqrt(p (1 - p) / n), which is what a difference is held against.
"""

import argparse
import json
import math
import pathlib

from launch import results, tuning
from launch.figures import lines
from prompt_jax.tasks import local

METRIC = 'accuracy'
TASKS = ('movie_sentiment', 'gloss_supersense', 'word_relation')
DTYPES = {
  'float32': {'ACTIVATION_DTYPE': 'float32'},
  'bfloat16': {'ACTIVATION_DTYPE': 'bfloat16'},
  'int8': {'ACTIVATION_DTYPE': 'float32', 'FROZEN_DTYPE': 'int8'},
}
_POINTS = 6  # evaluations of a run


def cells(args) -> list[results.Row]:
  """The fields that tell one run from another, settings included."""
  return [
    {
      'model': pathlib.Path(args.model).stem,
      'weights': tuning.weights(args.model),
      'task': task,
      'dtype': dtype,
      'seed': seed,
      'rate': args.rate,
      'steps': args.steps,
      'batch_size': args.batch_size,
    }
    for task in args.tasks
    for seed in args.seeds
    for dtype in args.dtypes
  ]


def run_cell(cell: results.Row, args, out: pathlib.Path) -> results.Row:
  """Tunes one cell: its accuracies {step: percent} and the last of them."""
  task = local.shipped(cell['task'])
  shown = ('model', 'task', 'dtype', 'seed', 'steps', 'weights')
  folder = out / 'cells' / '_'.join(str(cell[key]) for key in shown)
  settings = {
    **lines.settings(cell),
    **DTYPES[cell['dtype']],
    'EVAL_PERIOD': max(1, cell['steps'] // _POINTS),
  }
  tuned = tuning.tune(args.model, task, folder, settings)
  curve = {
    int(file.parent.name): json.loads(file.read_text())[METRIC]
    for file in (folder / 'eval').glob(f'*/{task.name}.json')
  }
  return {**tuned.figures(METRIC), 'curve': dict(sorted(curve.items()))}


def standard_error(percent: float, examples: int) -> float:
  """Of an accuracy in percent."""
  return math.sqrt(percent * (100 - percent) / examples)


def table(rows: list[results.Row]) -> str:
  """Markdown: a row a task, a column a dtype, differences to float32."""
  lines_ = []
  dtypes = list(dict.fromkeys(row['dtype'] for row in rows))
  for task in dict.fromkeys(row['task'] for row in rows):
    of = {
      dtype: [
        row[METRIC]
        for row in rows
        if (row['task'], row['dtype']) == (task, dtype)
      ]
      for dtype in dtypes
    }
    mean = {dtype: results.mean_spread(each)[0] for dtype, each in of.items()}
    count = len(local.examples(local.shipped(task), 'validation'))
    lines_.append(
      [
        f'`{task}`',
        *(results.shown(each) for each in of.values()),
        *(f'{mean[dtype] - mean[dtypes[0]]:+.1f}' for dtype in dtypes[1:]),
        f'{standard_error(mean[dtypes[0]], count):.1f}',
      ]
    )
  apart = [f'{dtype} - {dtypes[0]}' for dtype in dtypes[1:]]
  header = ['validation accuracy, %', *dtypes, *apart, 'standard error']
  return results.markdown(header, lines_)


def arguments(argv=None) -> argparse.Namespace:
  parser = lines.parser(__doc__, 'runs/figures/dtypes')
  add = parser.add_argument
  add('--tasks', nargs='+', default=list(TASKS))
  add('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES))
  add('--rate', type=float, default=0.3)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  rows = lines.filled(
    args,
    cells(args),
    run_cell,
    lambda row: (
      f'{row["task"]} {row["dtype"]} seed {row["seed"]}: {row[METRIC]:.1f}'
    ),
  )
  labels = {'xlabel': 'step', 'ylabel': 'validation accuracy, %'}
  for task in args.tasks:
    groups = {
      dtype: [
        {'step': int(step), METRIC: value}
        for row in rows
        if (row['task'], row['dtype']) == (task, dtype)
        for step, value in row['curve'].items()
      ]
      for dtype in args.dtypes
    }
    title = f'{pathlib.Path(args.model).stem}, {task}'
    lines.show(groups, 'step', METRIC, args.out, title=title, **labels)
  print(table(rows))


if __name__ == '__main__':
  main()
