"""Prompt length against initialisation: figure 3 of Lester et al. 2021, small.

    python -m launch.figures.lengths --model mini --task movie_sentiment \
      --lengths 1 5 20 50 --seeds 0 1 2 --steps 300 --out runs/figures \
      --source prompts/6000/tweet_sentiment_words.npy \
      --inits random_uniform from_sampled_vocab from_class_labels from_file

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
from prompt_jax.prompts import saved
from prompt_jax.tasks import local

METRIC = 'accuracy'
TRANSFERRED = 'from_file'
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
    'LEARNING_RATE': cell['rate'],
    'SCHEDULE': 'linear',
    'TRAIN_STEPS': cell['steps'],
    'BATCH_SIZE': cell['batch_size'],
    'EVAL_PERIOD': 0,
    'RANDOM_SEED': cell['seed'],
    **start_settings(init, length, task, cell['source'], folder),
  }
  start = f'prompts/{init}.gin'
  tuned = tuning.tune(args.model, task, folder, settings, start=start)
  return {
    **cell,
    METRIC: tuned.metrics()[METRIC],
    'seconds': round(tuned.summary['train_seconds'], 1),
    'base_digest': tuned.summary['base_digest'],
  }


def table(found: list[results.Row], inits, lengths) -> str:
  """Markdown: a row an initialiser, a column a length."""
  values = lambda init, length: [
    row[METRIC]
    for row in found
    if row['init'] == init and row['length'] == length
  ]
  lines = [
    [f'`{init}`', *(results.shown(values(init, n)) for n in lengths)]
    for init in inits
  ]
  return results.markdown(['prompt length', *lengths], lines)


def picture(found: list[results.Row], inits, title: str, file) -> bool:
  """Draws the figure into a PNG; False where matplotlib is not installed."""
  try:
    import matplotlib
  except ModuleNotFoundError:
    return False
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(5, 3.5), layout='constrained')
  lengths = sorted({row['length'] for row in found})
  for init in inits:
    at: dict[int, list[float]] = {}
    for row in found:
      if row['init'] == init:
        at.setdefault(row['length'], []).append(row[METRIC])
    sizes = sorted(at)
    points = [results.mean_spread(at[n]) for n in sizes]
    means, spreads = zip(*points, strict=True) if points else ((), ())
    axes.errorbar(sizes, means, spreads, marker='o', capsize=3, label=init)
  axes.set_xscale('log')
  axes.set_xticks(lengths, lengths)
  axes.minorticks_off()
  axes.set(xlabel='prompt length', ylabel='validation accuracy, %', title=title)
  axes.legend()
  figure.savefig(file, dpi=150)
  pyplot.close(figure)
  return True


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', default='mini')
  parser.add_argument('--task', default='movie_sentiment')
  parser.add_argument('--lengths', nargs='+', type=int, default=[1, 5, 20, 50])
  parser.add_argument('--inits', nargs='+', choices=INITS, default=INITS[:3])
  parser.add_argument('--source', help=f'[P,H] .npy that {TRANSFERRED} reads')
  parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--rate', type=float, default=0.03)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--out', default='runs/figures')
  args = parser.parse_args(argv)
  if TRANSFERRED in args.inits and args.source is None:
    parser.error(f'--inits {TRANSFERRED} needs --source, a saved prompt (.npy)')
  return args


def main(argv=None) -> None:
  args = arguments(argv)
  out = pathlib.Path(args.out)
  kept = results.Results(out / 'results.jsonl')
  tuning.share_compiled(out)
  wanted = list(cells(args))
  for i, cell in enumerate(wanted, 1):
    if not kept.has(**cell):
      kept.add(run_cell(cell, args, out))
    (row,) = kept.where(**cell)
    print(
      f'{i}/{len(wanted)} {cell["init"]} {cell["length"]} seed '
      f'{cell["seed"]}: {row[METRIC]:.1f}',
      flush=True,
    )
  found = [row for cell in wanted for row in kept.where(**cell)]
  title = f'{pathlib.Path(args.model).stem}, {args.task}'
  file = out / f'{title.replace(", ", "_")}.png'
  if picture(found, args.inits, title, file):
    print(file)
  else:
    print('no picture without matplotlib: pip install -e ".[plot]"')
  print(table(found, args.inits, args.lengths))


if __name__ == '__main__':
  main()
