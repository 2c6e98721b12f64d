"""Residual against plain prompts over learning rates, at ten rows.

    python -m launch.figures.rates --model mini --task movie_sentiment \
      --rates 0.03 0.1 0.3 1 3 --seeds 0 1 2 --steps 300

After Razdaibiedina et al. 2023, section 5.2: a residual prompt is said to
bear more learning rates than a plain one. Appends to OUT/results.jsonl; the
same command goes on where it stopped. Then draws OUT/<model>_<task>.png and
prints a Markdown table. Accuracy is that of the validation split after the
last step; nothing is chosen by it.
"""

import argparse
import pathlib

from launch import blanks, results, tuning
from launch.figures import lines
from prompt_jax.tasks import local

METRIC = 'accuracy'
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
METHODS = ('methods/residual.gin', tuning.PROMPT)


def cells(args) -> list[results.Row]:
  """The fields that tell one cell from another, settings included."""
  return [
    {
      'model': pathlib.Path(args.model).stem,
      'weights': tuning.weights(args.model),
      'task': args.task,
      'method': method,
      'rate': rate,
      'seed': seed,
      'length': args.length,
      'steps': args.steps,
      'batch_size': args.batch_size,
    }
    for seed in args.seeds  # the figure has all its points after one seed
    for method in args.methods
    for rate in args.rates
  ]


def run_cell(cell: results.Row, args, out: pathlib.Path) -> results.Row:
  """Tunes one cell: its accuracy and seconds."""
  task = local.shipped(cell['task'])
  shown = ('task', 'rate', 'seed', 'steps', 'weights')
  name = '_'.join(str(cell[key]) for key in shown)
  folder = out / 'cells' / pathlib.Path(cell['method']).stem / name
  settings = {
    **lines.settings(cell),
    **blanks.settings(cell['method'], args.model, [task], cell['length']),
  }
  tuned = tuning.tune(args.model, task, folder, settings, method=cell['method'])
  return tuned.figures(METRIC)


def arguments(argv=None) -> argparse.Namespace:
  parser = lines.parser(__doc__, 'runs/figures/rates')
  add = parser.add_argument
  add('--task', default='movie_sentiment')
  add('--methods', nargs='+', default=list(METHODS), help='gin files')
  add('--rates', nargs='+', type=float, default=list(RATES))
  add('--length', type=int, default=10, help='rows of a prompt')
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  rows = lines.filled(
    args,
    cells(args),
    run_cell,
    lambda row: f'{row["method"]} {row["rate"]:g}: {row[METRIC]:.1f}',
  )
  groups = {
    pathlib.Path(method).stem: [r for r in rows if r['method'] == method]
    for method in args.methods
  }
  title = f'{pathlib.Path(args.model).stem}, {args.task}'
  labels = {'xlabel': 'learning rate', 'ylabel': 'validation accuracy, %'}
  lines.show(groups, 'rate', METRIC, args.out, title=title, **labels)


if __name__ == '__main__':
  main()
