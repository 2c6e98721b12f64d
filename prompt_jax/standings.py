"""The standings of a sweep: a row a prompt, as files, a table and a picture.

MODEL_DIR/results.json   every row, and the best by BEST_METRIC
MODEL_DIR/results.csv    the rows
MODEL_DIR/results.md     the same as a table, best first
MODEL_DIR/results.png    every metric against the rate (needs matplotlib)
"""

from collections.abc import Mapping, Sequence
import csv
import io
import json
import os
import pathlib
from typing import Any

from prompt_jax import files

AXES = ('task', 'start', 'rate', 'seed')  # what members differ in


def found(folder: pathlib.Path, step: int | None) -> dict[str, float]:
  """Metrics of one evaluation of a run, from its metrics.jsonl."""
  file = folder / 'metrics.jsonl'
  for line in file.read_text().splitlines() if file.is_file() else ():
    point = json.loads(line)
    if (point.pop('group'), point.pop('step')) == ('eval', step):
      point.pop('seconds')
      return point
  return {}


def row(member) -> dict[str, Any]:
  """The row of a `member.Member` that has stopped."""
  best = member.best.step
  step = member.best.evaluated if best is None else best
  return {
    'name': member.name,
    **{axis: member.about[axis] for axis in AXES},
    'steps': member.number,
    'reason': member.reason,
    'evaluated_step': step or None,
    'metrics': found(member.run.folder, step),
  }


def ranked(rows: Sequence[Mapping], metric: str | None) -> list[Mapping]:
  """Rows, best first; those without the metric last, ties as they come.

  Args:
    metric: None takes the first that any row has.
  """
  names = [name for each in rows for name in each['metrics']]
  name = metric or (names[0] if names else None)
  lowest = float('-inf')
  return sorted(rows, key=lambda each: -each['metrics'].get(name, lowest))


def table(rows: Sequence[Mapping]) -> str:
  """Rows in Markdown."""
  metrics = list(dict.fromkeys(n for each in rows for n in each['metrics']))
  head = [*AXES, 'steps', 'reason', 'at step', *metrics]
  line = lambda cells: '| ' + ' | '.join(map(str, cells)) + ' |'
  number = lambda value: '' if value is None else f'{value:.2f}'
  blank = lambda value: '' if value is None else value
  lines = [line(head), line(['---'] * len(head))]
  for each in rows:
    own = [each[axis] for axis in (*AXES, 'steps', 'reason', 'evaluated_step')]
    values = [number(each['metrics'].get(name)) for name in metrics]
    lines.append(line([*map(blank, own), *values]))
  return '\n'.join(lines)


def _csv(rows: Sequence[Mapping]) -> str:
  metrics = list(dict.fromkeys(n for each in rows for n in each['metrics']))
  own = [name for name in rows[0] if name != 'metrics']
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow([*own, *metrics])
  for each in rows:
    values = [each['metrics'].get(name) for name in metrics]
    writer.writerow([*(each[name] for name in own), *values])
  return text.getvalue()


def write(
  folder: pathlib.Path, rows: Sequence[Mapping], metric: str | None
) -> list[Mapping]:
  """Writes the files but for the picture; the rows, best first."""
  order = ranked(rows, metric)
  files.write_json(
    folder / 'results.json',
    {'best_metric': metric, 'best': order[0]['name'], 'rows': list(rows)},
  )
  files.write_text(folder / 'results.csv', _csv(rows))
  files.write_text(folder / 'results.md', table(order) + '\n')
  return order


def draw(folder: pathlib.Path, rows: Sequence[Mapping], metric: str | None):
  """Draws results.png; None where matplotlib or a metric is not there.

  A line a task and start: the mean over seeds against the rate, a point each.
  """
  names = [name for each in rows for name in each['metrics']]
  if not names:  # stopped before any evaluation
    return None
  name = metric if metric in names else names[0]
  try:
    import matplotlib
  except ImportError:
    print('no results.png: pip install prompt_jax[plot], then the same again')
    return None
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(7, 4.5))
  known = [each for each in rows if name in each['metrics']]
  for task, start in dict.fromkeys((r['task'], r['start']) for r in known):
    mine = [r for r in known if (r['task'], r['start']) == (task, start)]
    by_rate: dict[float, list[float]] = {}
    for each in mine:
      by_rate.setdefault(each['rate'], []).append(each['metrics'][name])
    rates = sorted(by_rate)
    means = [sum(by_rate[r]) / len(by_rate[r]) for r in rates]
    (line,) = axes.plot(rates, means, marker='o', label=f'{task}, {start}')
    points = [(r, value) for r in rates for value in by_rate[r]]
    axes.scatter(*zip(*points, strict=True), s=12, color=line.get_color())
  axes.set_xscale('log')
  axes.set_xlabel('learning rate')
  axes.set_ylabel(name)
  axes.legend(fontsize='small')
  path = folder / 'results.png'
  beside = folder / f'.results.{os.getpid()}.png'
  figure.savefig(beside, dpi=120, bbox_inches='tight')
  pyplot.close(figure)
  os.replace(beside, path)
  return path
