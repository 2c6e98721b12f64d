"""ATTEMPT, SPoT and a plain prompt on few examples.

    python -m launch.figures.examples --model mini --tasks movie_sentiment \
      --sources runs/pretrain/mini/prompts/6000 --examples 16 64 --seeds 0 1 2

After Asai et al. 2022, section 5.1: what prompts of other tasks are worth
when there are few examples. N rows in all, drawn by seed, as even over the
classes as they allow; nothing else of the task is seen. Test accuracy of the
last step. Appends to OUT/results.jsonl; the same command goes on where it
stopped. Then draws OUT/<model>_<task>.png and prints a Markdown table a task.
"""

import argparse
import pathlib

from launch import blanks, results, subset, tuning
from launch.figures import lines
from prompt_jax.tasks import local

METRIC = 'accuracy'
METHODS = ('methods/attempt.gin', 'methods/spot.gin', tuning.PROMPT)


def cells(args) -> list[results.Row]:
  """The fields that tell one cell from another, settings included."""
  return [
    {
      'model': pathlib.Path(args.model).stem,
      'weights': tuning.weights(args.model),
      'task': task,
      'method': method,
      'examples': examples,
      'seed': seed,
      'steps': args.steps,
      'rate': args.rate,
      'batch_size': args.batch_size,
      'sources': args.sources,
    }
    for seed in args.seeds
    for task in args.tasks
    for examples in args.examples
    for method in args.methods
  ]


def run_cell(cell: results.Row, args, out: pathlib.Path) -> results.Row:
  """Tunes one cell on the rows of its seed: accuracy and seconds."""
  task, method = local.shipped(cell['task']), cell['method']
  targets = [target for _, target in local.examples(task, 'train')]
  rows = subset.choose(targets, cell['examples'], cell['seed'])
  name = f'{task.name}_{cell["examples"]}_{cell["seed"]}'
  small = subset.drawn(
    task, name, {'train': rows}, out / 'rows', keep=('test',)
  )
  length = len_of_sources(args)
  settings = {
    **lines.settings(cell),
    **blanks.settings(
      method, args.model, [small], length, cell['sources'], args.tasks
    ),
  }
  inner = f'{name}_{cell["rate"]:g}_{cell["steps"]}_{cell["weights"]}'
  tuned = tuning.tune(
    args.model,
    small,
    out / 'cells' / pathlib.Path(method).stem / inner,
    settings,
    method=method,
    split='test',
  )
  return tuned.figures(METRIC)


def len_of_sources(args) -> int:
  """Rows of the saved prompts, which the plain one has too."""
  first, *_ = blanks.sources(args.sources, args.model, args.tasks)
  return blanks.length_of(first)


def arguments(argv=None) -> argparse.Namespace:
  parser = lines.parser(__doc__, 'runs/figures/examples', 200, 16)
  add = parser.add_argument
  add('--tasks', nargs='+', default=['movie_sentiment'])
  add('--methods', nargs='+', default=list(METHODS), help='gin files')
  add('--sources', required=True, help='folder of prompts of other tasks')
  add('--examples', nargs='+', type=int, default=[16, 64])
  add('--rate', type=float, default=0.3)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  rows = lines.filled(
    args,
    cells(args),
    run_cell,
    lambda row: (
      f'{row["task"]} {row["method"]} {row["examples"]}: {row[METRIC]:.1f}'
    ),
  )
  for task in args.tasks:
    groups = {
      pathlib.Path(method).stem: [
        row for row in rows if (row['method'], row['task']) == (method, task)
      ]
      for method in args.methods
    }
    title = f'{pathlib.Path(args.model).stem}, {task}'
    labels = {'xlabel': 'examples', 'ylabel': 'test accuracy, %'}
    lines.show(groups, 'examples', METRIC, args.out, title=title, **labels)


if __name__ == '__main__':
  main()
