"""What the released prompts and matrices of Su et al. 2022 show, recomputed.

    python -m launch.reproduce.transferability --data DATA

DATA (or PROMPT_JAX_TRANSFER_DATA) holds the arrays that the authors released:
prompts_<model>.npz, transfer_<model>.csv, projected_*.npz, neurons_*.npz.
Writes OUT/found.json and OUT/found.md: transfer by type, how each indicator
goes with transfer, the overlap of neurons in T5-XXL, and collapsed projectors.
No model is run.
"""

import argparse
from collections.abc import Mapping
import csv
import os
import pathlib
from typing import Any

import numpy as np

from prompt_jax import files
from prompt_jax.errors import UserError
from prompt_jax.transfer import (
  collapse,
  correlation,
  heatmap,
  indicators,
  matrix,
  overlap,
  shelf,
)

SETTING = 'PROMPT_JAX_TRANSFER_DATA'
TYPES = {  # Su et al. 2022, table 1, in their order
  'sentiment': [
    *('IMDB', 'SST2', 'laptop', 'restaurant', 'movierationales'),
    'tweetevalsentiment',
  ],
  'inference': ['MNLI', 'QNLI', 'snli', 'recastner'],
  'ethics': ['ethicsdeontology', 'ethicsjustice'],
  'paraphrase': ['QQP', 'MRPC'],
  'questions': ['squad', 'nq_open'],
  'summaries': ['multi_news', 'samsum'],
}
# models of cross_model_zero_shot.csv: the name of their matrix
_MODELS = {
  'Roberta': 'roberta_base',
  'RobertaLarge': 'roberta_large',
  'T5': 't5_base',
  'T5Small': 't5_small',
}
MASKED_ROW = ('roberta', 'bert')  # row 0 of their prompts acts on nothing


def data_folder(given: str | None) -> pathlib.Path:
  """The folder of the released arrays.

  Raises: UserError if it is not given, or has no matrix.
  """
  folder = given or os.environ.get(SETTING)
  path = pathlib.Path(folder or '.').expanduser()
  if not folder or not list(path.glob('transfer_*.csv')):
    raise UserError(
      f'There is no transfer_<model>.csv in {folder or "(no folder given)"}; '
      'expected the folder of the released prompts and matrices. Give '
      f'--data=FOLDER or set {SETTING}.'
    )
  return path


def by_model(folder: pathlib.Path) -> dict[str, matrix.Matrix]:
  """{model: its transfer matrix}."""
  paths = sorted(folder.glob('transfer_*.csv'))
  return {p.stem.removeprefix('transfer_'): matrix.read(p) for p in paths}


def of_model(
  scores: matrix.Matrix, prompts: shelf.Shelf, skip: int = 0
) -> dict[str, dict[str, float]]:
  """{indicator: correlations} over the tasks with a prompt and scores.

  Args: skip: rows left out at the start of every prompt.
  """
  names = [n for n in scores.square().tasks if n in prompts.names]
  found = indicators.between(prompts.only(names).prompts[:, skip:])
  table = scores.square(names).scores
  return {
    name: correlation.correlations(alike, table)
    for name, alike in found.items()
  }


def apart(values: np.ndarray, names, types: Mapping) -> dict[str, float]:
  """Mean of a pairwise table over pairs of one type and of two."""
  of = {task: kind for kind, tasks in types.items() for task in tasks}
  groups: dict[str, list[float]] = {'same type': [], 'different type': []}
  for i, one in enumerate(names):
    for j in range(i):
      same = of.get(one) == of.get(names[j])
      groups['same type' if same else 'different type'].append(values[i, j])
  return {k: float(np.mean(v)) for k, v in groups.items() if v}


def neurons(path: pathlib.Path) -> dict[str, Any]:
  """ON of the recordings of two tasks, step by step and layer by layer."""
  with np.load(path) as stored:
    held = {name: stored[name] for name in stored.files}
  steps, found = held.pop('steps'), {}
  for kind in sorted({name.split('_')[0] for name in held}):
    pair = [held[n] for n in sorted(held) if n.startswith(f'{kind}_')]
    rows = []
    for place, step in enumerate(steps):
      on = overlap.active(np.stack([each[place] for each in pair]))
      rows.append(
        {
          'step': int(step),
          'ON': float(overlap.overlaps(on, 'all')[0, 1]),
          'chance': float(overlap.chance(on, 'all')[0, 1]),
          'by_layer': overlap.by_layer(on)[:, 0, 1].tolist(),
        }
      )
    found[kind] = rows
  return found


def collapsed(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """Collapse statistics of projected and of trained prompts, by type."""
  found = {}
  for path in sorted(folder.glob('p*.npz')):
    if not path.stem.startswith(('projected_', 'prompts_')):
      continue
    prompts = shelf.read(path)
    for kind, tasks in TYPES.items():
      names = [name for name in tasks if name in prompts.names]
      if len(names) >= 3:
        rows = prompts.only(names).prompts
        found[f'{path.stem}, {kind}'] = collapse.statistics(rows)
  return found


def cross_model(
  folder: pathlib.Path, matrices: Mapping[str, matrix.Matrix]
) -> dict[str, dict[str, dict[str, float]]]:
  """{'source -> target': {type: relative scores}} of projected prompts.

  A score is that of the task's own projected prompt over that of the prompt
  trained on the target model; beside it that of a random prompt.
  """
  path, found = folder / 'cross_model_zero_shot.csv', {}
  if not path.is_file():
    return found
  of = {task: kind for kind, tasks in TYPES.items() for task in tasks}
  with path.open() as file:
    for row in csv.DictReader(file):
      table, task = matrices.get(_MODELS.get(row['target_model'])), row['task']
      if table is None or task not in of or task not in table.tasks:
        continue
      own, random = table.score(task, task), np.nan
      if shelf.RANDOM in table.prompts:
        random = table.score(task, shelf.RANDOM)
      pair = f'{row["source_model"]} -> {row["target_model"]}'
      kinds = found.setdefault(pair, {}).setdefault(of[task], [])
      kinds.append((float(row['acc']) / own, random / own))
  return {
    pair: {
      kind: {
        'tasks': len(rows),
        'projected': float(np.mean([p for p, _ in rows])),
        'random': float(np.mean([r for _, r in rows])),
      }
      for kind, rows in kinds.items()
    }
    for pair, kinds in found.items()
  }


def compared(folder: pathlib.Path, model: str, prompts: shelf.Shelf) -> float:
  """Largest relative difference from indicators.csv; nan where it has none."""
  path, worst = folder / 'indicators.csv', float('nan')
  if not path.is_file():
    return worst
  tables = indicators.between(prompts.prompts)
  with path.open() as file:
    for row in csv.DictReader(file):
      pair = (row['task_1'], row['task_2'])
      if row['model'] != model or not {*pair} <= {*prompts.names}:
        continue
      i, j = map(prompts.index, pair)
      for name, table in tables.items():
        wanted = float(row[name])
        error = abs(table[i, j] - wanted) / abs(wanted)
        worst = float(np.fmax(worst, error))
  return worst


def measured(folder: pathlib.Path) -> dict[str, Any]:
  """Everything that the released arrays allow, see the module."""
  matrices = by_model(folder)
  found: dict[str, Any] = {
    'by_type': {m: matrix.by_type(t, TYPES) for m, t in matrices.items()},
    'spearman': {},
    'indicators_off_by': {},
    'alike_by_type': {},
  }
  for path in sorted(folder.glob('prompts_*.npz')):
    model = path.stem.removeprefix('prompts_').removesuffix('_f16')
    prompts = shelf.read(path)
    alike = indicators.between(prompts.prompts)
    found['alike_by_type'][model] = {
      name: apart(table, prompts.names, TYPES) for name, table in alike.items()
    }
    if model not in matrices:
      continue
    found['spearman'][model] = of_model(matrices[model], prompts)
    if model.startswith(MASKED_ROW):
      rows = of_model(matrices[model], prompts, skip=1)
      found['spearman'][f'{model}, without row 0'] = rows
    found['indicators_off_by'][model] = compared(folder, model, prompts)
  recorded = sorted(folder.glob('neurons_*.npz'))
  found['neurons'] = {p.stem: neurons(p) for p in recorded}
  found['collapse'] = collapsed(folder)
  found['cross_model'] = cross_model(folder, matrices)
  return found


def _table(head, rows) -> list[str]:
  line = lambda cells: '| ' + ' | '.join(cells) + ' |'
  rule = ['---', *['---:'] * (len(head) - 1)]
  return [line(head), line(rule), *map(line, rows), '']


def _number(value: float, form: str = '.3f') -> str:
  return '-' if np.isnan(value) else format(value, form)


def _types(means: Mapping[str, Any], groups) -> list[str]:
  rows = [
    [model, *(_number(of.get(g, np.nan)) for g in groups)]
    for model, of in means.items()
  ]
  return _table(['model', *groups], rows)


def _indicators(found: Mapping[str, Any]) -> list[str]:
  heads = [d.replace('_', ' ') for d in correlation.DEFINITIONS]
  rows = [
    [model, name, *(_number(rho[d]) for d in correlation.DEFINITIONS)]
    for model, table in found['spearman'].items()
    for name, rho in table.items()
  ]
  lines = _table(['model', 'indicator', *heads], rows)
  off = [x for x in found['indicators_off_by'].values() if not np.isnan(x)]
  if off:
    said = 'Largest relative difference from the indicators of indicators.csv'
    lines += [f'{said}: {max(off):.1e}', '']
  return lines


def _neurons(kinds: Mapping[str, Any]) -> list[str]:
  rows = [
    [kind, str(r['step']), _number(r['ON']), _number(r['chance'])]
    for kind, steps in kinds.items()
    for r in (steps[0], steps[len(steps) // 2], steps[-1])
  ]
  return _table(['recorded', 'step', 'ON', 'chance'], rows)


def _projected(found: Mapping[str, Any]) -> list[str]:
  keys = ('projected', 'random')
  rows = [
    [pair, kind, str(r['tasks']), *(_number(r[key]) for key in keys)]
    for pair, kinds in found.items()
    for kind, r in kinds.items()
  ]
  return _table(['models', 'type', 'tasks', *keys], rows)


def _collapsed(found: Mapping[str, Any]) -> list[str]:
  rows = [
    [
      name,
      str(s['prompts']),
      *(_number(s[k], '.2e') for k in ('variance_ratio', 'direction_ratio')),
      'collapsed' if s['direction_ratio'] < collapse.WARN_BELOW else '',
    ]
    for name, s in found.items()
  ]
  return _table(['prompts', 'n', 'variance ratio', 'direction ratio', ''], rows)


def report(found: Mapping[str, Any]) -> str:
  """What was found, in Markdown."""
  lines = ['# Su et al. 2022, from the released arrays', '']
  groups = ('same type', 'different type', 'random')
  alike = {
    model: table['C_average'] for model, table in found['alike_by_type'].items()
  }
  parts = {
    'Zero-shot transfer, relative to the own prompt': _types(
      found['by_type'], groups
    ),
    'Spearman of indicators with transfer': _indicators(found),
    'C_average of prompts of one type and of two': _types(alike, groups[:2]),
  }
  for name, kinds in found['neurons'].items():
    parts[f'Overlap of neurons, {name}'] = _neurons(kinds)
  if found['cross_model']:
    head = 'Projected prompts, relative to the own prompt'
    parts[head] = _projected(found['cross_model'])
  parts['Collapse of projectors'] = _collapsed(found['collapse'])
  for head, table in parts.items():
    lines += [f'## {head}', '', *table]
  return '\n'.join(lines)


def arguments(argv=None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data', help=f'folder; default: {SETTING}')
  parser.add_argument('--out', default='runs/su2022', help='folder to write')
  parser.add_argument('--plot', action='store_true', help='heat maps too')
  return parser.parse_args(argv)


def main(argv=None) -> None:
  """Recomputes, writes and prints."""
  args = arguments(argv)
  folder, out = data_folder(args.data), pathlib.Path(args.out).expanduser()
  found = measured(folder)
  files.write_json(out / 'found.json', found)
  files.write_text(out / 'found.md', report(found) + '\n')
  if args.plot:
    for model, table in by_model(folder).items():
      path = out / f'relative_{model}.png'
      heatmap.draw(table.relative(), path, f'{model}, relative')
  print(report(found))
  print(out / 'found.json')


if __name__ == '__main__':
  main()
