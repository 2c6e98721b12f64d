"""What a transfer study finds, as tables and curves of its report.

Means over seeds, with the sample standard deviation where there are several.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import pathlib
from typing import Any

import numpy as np

from launch import results
from prompt_jax.transfer.matrix import Matrix

Table = dict[str, Any]
_DIAGNOSTIC = ('direction_ratio', 'variance_ratio', 'gap_shuffled')


def said(values: Iterable[float | None], decimals: int = 1) -> str:
  """'0.61 ± 0.02' of what is known; '-' of nothing."""
  known = [x for x in values if x is not None and not math.isnan(x)]
  if not known:
    return '-'
  mean, spread = results.mean_spread(known)
  if 0 < abs(mean) < 10**-decimals:
    return f'{mean:.1e}'
  more = f' ± {spread:.{decimals}f}' if len(known) > 1 else ''
  return f'{mean:.{decimals}f}{more}'


def groups(rows: Iterable[results.Row], *keys: str) -> dict[tuple, list]:
  """{values of some fields: rows}, in order of appearance."""
  found: dict[tuple, list] = {}
  for row in rows:
    found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
  return found


def mean_matrix(each: Sequence[Matrix]) -> Matrix:
  """The mean of matrices of the same tasks and prompts."""
  first = each[0]
  scores = np.mean([one.scores for one in each], axis=0)
  return Matrix(first.tasks, first.prompts, scores)


def _name(model: str) -> str:
  return pathlib.Path(model).stem


def _of(rows, what: str) -> list[results.Row]:
  return [row for row in rows if row['what'] == what]


def transfer_table(rows: Sequence[results.Row]) -> Table:
  """Zero-shot transfer by type, relative to the own prompt."""
  kinds = ('same type', 'different type', 'random')
  lines = [
    [_name(model), *(said((r['by_type'][k] for r in own), 3) for k in kinds)]
    for (model,), own in groups(_of(rows, 'transfer'), 'model').items()
  ]
  return {'head': ['mean relative score', *kinds], 'rows': lines}


def spearman_table(rows: Sequence[results.Row]) -> Table:
  """How each indicator goes with transfer."""
  kinds, lines = ('with_self', 'without_self', 'pooled'), []
  for (model,), own in groups(_of(rows, 'transfer'), 'model').items():
    for name in own[0]['spearman']:
      found = (
        said((row['spearman'][name][kind] for row in own), 3) for kind in kinds
      )
      lines.append([f'{_name(model)}, {name}', *found])
  head = ['Spearman', *(kind.replace('_', ' ') for kind in kinds)]
  return {'head': head, 'rows': lines}


def masked_table(rows: Sequence[results.Row]) -> Table:
  """What masking costs, in points, mean over tasks."""
  lines = []
  for (model,), own in groups(_of(rows, 'masked'), 'model').items():
    for i, ratio in enumerate(own[0]['ratios']):
      drops = [_drops(row['masked'], i) for row in own]
      found = [said(drop[kind] for drop in drops) for kind in drops[0]]
      lines.append([f'{_name(model)}, {ratio:g} masked', *found])
  head = ['points lost', 'own', 'random', "another task's"]
  return {'head': head, 'rows': lines}


def _drops(found: Mapping[str, Any], i: int) -> dict[str, float]:
  """Mean loss in points at the i-th ratio, a number a kind of mask."""
  each: dict[str, list] = {'own': [], 'random': [], 'other': []}
  for task in found.values():
    row = task['masked'][i]
    each['own'].append(task['none'] - row['own'])
    each['random'].append(task['none'] - np.mean(row['random']))
    other = list(row['other'].values()) or [math.nan]
    each['other'].append(task['none'] - np.mean(other))
  return {kind: float(np.nanmean(values)) for kind, values in each.items()}


def projector_table(rows: Sequence[results.Row]) -> Table:
  """Projected prompts without training, and whether their source matters."""
  lines = []
  keys = ('source', 'model', 'variant')
  for (source, model, variant), own in groups(
    _of(rows, 'projector'), *keys
  ).items():
    name = f'{_name(source)} to {_name(model)}, {variant}'
    cells = []
    for seen in (True, False):
      for kind in ('projected', 'own'):
        cells.append(said(_mean_score(row, kind, seen) for row in own))
    cells.append(said(_mean_score(row, 'random', None) for row in own))
    cells += [said((r['diagnostic'][k] for r in own), 2) for k in _DIAGNOSTIC]
    lines.append([name, *cells])
  head = ['projector', 'trained on', 'their own', 'not trained on']
  head += ['their own', 'random prompt', 'direction ratio', 'variance ratio']
  note = (
    'A direction ratio below 0.01 is a collapse: one prompt whatever the '
    'source. Transfer is only what lies above the blind projector on tasks '
    'that it was not trained on.'
  )
  return {'head': [*head, 'gap shuffled'], 'rows': lines, 'notes': [note]}


def _mean_score(row, kind: str, seen: bool | None) -> float:
  """Mean over tasks trained on, or not, or all, of one kind of prompt."""
  values = [
    scores[kind]
    for task, scores in row['scores'].items()
    if kind in scores and seen in (None, task in row['trained'])
  ]
  return float(np.mean(values)) if values else math.nan


def speed_table(rows: Sequence[results.Row]) -> Table:
  """Steps that a start saves."""
  lines = []
  keys = ('model', 'task', 'start', 'source')
  for (model, task, start, source), own in groups(
    _of(rows, 'speed'), *keys
  ).items():
    reached = [r for r in own if r['comparable_steps'] is not None]
    known = [r['alike'] for r in own if r['alike'] is not None]
    lines.append(
      [
        f'{_name(model)}, {task}, {_called(start, source)}',
        ', '.join(dict.fromkeys(_name(r['from']) for r in own)),
        said(known, 2),
        said(r['scratch_best'] for r in own),
        said((r['scratch_steps'] for r in own), 0),
        said(r['started_best'] for r in own),
        said((r['comparable_steps'] for r in reached), 0),
        f'{len(reached)} of {len(own)}',
        said((r['comparable'] for r in reached), 2),
        said((r['convergence'] for r in own), 2),
      ]
    )
  head = ['start', 'from', 'alike', 'scratch best', 'at step', 'best']
  head += ['scratch best reached at step', 'seeds that reach it']
  return {'head': [*head, 'comparable', 'convergence'], 'rows': lines}


def _called(start: str, source: str | None) -> str:
  return f'projected by {start}' if source else f'{start} alike'


def tables(rows: Sequence[results.Row]) -> dict[str, Table]:
  """{heading: table} of all that there is."""
  made = {
    'Zero-shot transfer': transfer_table(rows),
    'Indicators and transfer': spearman_table(rows),
    'Masked neurons': masked_table(rows),
    'Projectors': projector_table(rows),
    'Starts': speed_table(rows),
  }
  return {name: table for name, table in made.items() if table['rows']}


def curves(rows: Sequence[results.Row]) -> dict[str, dict[str, Any]]:
  """{heading: lines over steps}, means over seeds, of the started runs."""
  found: dict[str, dict[str, Any]] = {}
  for (model, task), own in groups(_of(rows, 'speed'), 'model', 'task').items():
    lines = {}
    for (start, source), some in groups(own, 'start', 'source').items():
      lines[_called(start, source)] = _mean_curve([r['curve'] for r in some])
      lines['from scratch'] = _mean_curve([r['scratch'] for r in some])
    heading = f'{_name(model)}, {task}: validation accuracy, percent'
    found[heading] = {'across': 'step', 'lines': lines}
  return found


def _mean_curve(each: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
  """Points [step, mean] of the steps that all curves have."""
  known = [dict(map(tuple, curve)) for curve in each]
  steps = sorted(set.intersection(*map(set, known)))
  return [[s, float(np.mean([curve[s] for curve in known]))] for s in steps]


def text(found: Mapping[str, Table]) -> str:
  """All tables as Markdown."""
  parts = []
  for heading, table in found.items():
    made = results.markdown(table['head'], table['rows'])
    parts += [f'### {heading}', made, *table.get('notes', ())]
  return '\n\n'.join(parts)
