"""A picture of means and spreads: a line a group, results over one field.

With what all figures ask of the command line and of a run.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
from typing import Any

from launch import results, tuning


def parser(
  doc: str, out: str, steps: int = 300, batch_size: int = 32
) -> argparse.ArgumentParser:
  """A command line with the flags of every figure, and their defaults."""
  made = argparse.ArgumentParser(description=doc.splitlines()[0])
  made.add_argument('--model', default='mini')
  made.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
  made.add_argument('--steps', type=int, default=steps)
  made.add_argument('--batch_size', type=int, default=batch_size)
  made.add_argument('--out', default=out)
  return made


def settings(cell: results.Row) -> dict[str, Any]:
  """Gin's values for a cell whose last step counts."""
  return {
    'LEARNING_RATE': cell['rate'],
    'TRAIN_STEPS': cell['steps'],
    'BATCH_SIZE': cell['batch_size'],
    'EVAL_PERIOD': 0,
    'RANDOM_SEED': cell['seed'],
  }


def filled(
  args: argparse.Namespace,
  cells: Sequence[results.Row],
  run: Callable[..., results.Row],
  say: Callable[[results.Row], str],
) -> list[results.Row]:
  """The rows of a figure; those that OUT/results.jsonl has are not made again.

  Args:
    args: of `parser`.
    cells: the fields that tell one row from another.
    run: `(cell, args, out) -> row`.
    say: row -> a line of progress.
  """
  out = pathlib.Path(args.out)
  tuning.share_compiled(out)
  kept = results.Results(out / 'results.jsonl')
  return kept.filled(cells, lambda cell: run(cell, args, out), say)


def points(
  found: Sequence[results.Row], x: str, y: str
) -> dict[Any, list[float]]:
  """{value of x, rising: values of y} of some rows."""
  at: dict[Any, list[float]] = {}
  for row in found:
    at.setdefault(row[x], []).append(row[y])
  return dict(sorted(at.items()))


def picture(
  groups: Mapping[str, Sequence[results.Row]],
  x: str,
  y: str,
  file: str | os.PathLike,
  **labels: str,
) -> bool:
  """Draws a PNG; False where matplotlib is not installed.

  Args:
    groups: {name of a line: its rows}.
    x, y: fields of the rows; x is on a scale of logarithms.
    file: to write.
    labels: title, xlabel, ylabel.
  """
  try:
    import matplotlib
  except ModuleNotFoundError:
    return False
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(5, 3.5), layout='constrained')
  ticks = sorted({row[x] for rows in groups.values() for row in rows})
  for name, rows in groups.items():
    at = points(rows, x, y)
    pairs = [results.mean_spread(values) for values in at.values()]
    means, spreads = zip(*pairs, strict=True) if pairs else ((), ())
    axes.errorbar(list(at), means, spreads, marker='o', capsize=3, label=name)
  axes.set_xscale('log')
  axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axes.minorticks_off()
  axes.set(**labels)
  axes.legend()
  figure.savefig(file, dpi=150)
  pyplot.close(figure)
  return True


def table(
  groups: Mapping[str, Sequence[results.Row]], x: str, y: str, title: str
) -> str:
  """The same numbers in Markdown: a row a group, a column a value of x."""
  columns = sorted({row[x] for rows in groups.values() for row in rows})
  lines = []
  for name, rows in groups.items():
    at = points(rows, x, y)
    lines.append(
      [f'`{name}`', *(results.shown(at.get(c, ())) for c in columns)]
    )
  return results.markdown([title, *(f'{c:g}' for c in columns)], lines)


def show(
  groups: Mapping[str, Sequence[results.Row]],
  x: str,
  y: str,
  out: str | os.PathLike,
  **labels: str,
) -> None:
  """Draws OUT/<title>.png and prints its name and the table.

  Args: as of `picture`; ', ' in the title is '_' in the name.
  """
  file = pathlib.Path(out) / f'{labels["title"].replace(", ", "_")}.png'
  if picture(groups, x, y, file, **labels):
    print(file)
  else:
    print('no picture without matplotlib: pip install -e ".[plot]"')
  print(table(groups, x, y, labels['xlabel']))
