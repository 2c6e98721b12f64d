"""`prompt-jax transfer indicators`: likeness of prompts, and what it tells.

    prompt-jax transfer indicators --prompts prompts/ --output runs/alike \
      --matrix runs/transfer/matrix.csv

With --base, the overlap of activated neurons too.
"""

import argparse
import pathlib

import numpy as np

from prompt_jax import files
from prompt_jax.errors import UserError
from prompt_jax.transfer import (
  correlation,
  heatmap,
  indicators,
  matrix,
  overlap,
  reading,
  stimulation,
)
from prompt_jax.transfer.shelf import Shelf


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of the action."""
  add = parser.add_argument
  add('--prompts', required=True, help='folder of <task>.npy, or an .npz')
  add('--output', required=True, help='folder to write')
  add('--matrix', help='CSV of scores, to correlate with')
  add('--base', help='of the prompts; given: ON, the overlap of neurons')
  add('--vocabulary', help='.model file or bytes; default: that of the base')
  add('--layers', type=int, nargs='+', help='of ON; default: the last three')
  add('--stack', choices=('encoder', 'decoder'), default='decoder')
  add('--position', type=int, default=0, help='of ON; -1 is the last')
  add('--rows', type=int, default=0, help='rows left out at the start')
  add('--allow_other_base', action='store_true')
  add('--plot', action='store_true', help='figures too (needs matplotlib)')


def run(args: argparse.Namespace) -> list[str]:
  """Compares. Returns: what is printed."""
  shelf = reading.prompts_of(args)
  _check(shelf, args.rows)
  if not args.base and (args.layers or args.position):
    raise UserError(
      '--layers and --position are of ON, the overlap of neurons, for which '
      'there is no --base; expected the base of the prompts. Give --base.'
    )
  folder = pathlib.Path(args.output).expanduser()
  found = indicators.between(shelf.prompts[:, args.rows :])
  lines, on, aligned = [], None, None
  if args.base:
    on = _active(args, shelf)
    found['ON'] = overlap.overlaps(on, args.layers)
    found['ON_chance'] = overlap.chance(on, args.layers)
  files.write_text(folder / 'indicators.csv', _pairs(shelf.names, found))
  lines += _summary(found)
  if args.matrix:
    aligned = _aligned(matrix.read(args.matrix), shelf)
    told = {name: _told(table, *aligned) for name, table in found.items()}
    lines += ['', 'Spearman with the transfer matrix', *correlation.table(told)]
    files.write_json(folder / 'spearman.json', told)
  if on is not None:
    lines += ['', *_curve(on, args, folder, aligned)]
  if args.plot:
    for name, table in found.items():
      shown = matrix.Matrix(shelf.names, shelf.names, table)
      heatmap.draw(shown, folder / f'{name}.png', name, decimals=3)
  return [*lines, '', str(folder / 'indicators.csv')]


def _check(shelf: Shelf, rows: int) -> None:
  """Raises unless there are prompts to compare and rows of them left."""
  if len(shelf) < 2 or not 0 <= rows < shelf.length:
    raise UserError(
      f'{len(shelf)} prompts of {shelf.length} rows, less {rows} at the start, '
      'are nothing to compare; expected at least 2 prompts and 1 row. Put '
      'more prompts into the folder, or correct --rows.'
    )


def _active(args, shelf: Shelf) -> np.ndarray:
  """Which neurons each prompt activates, bool[S,L,F]."""
  base = reading.base.load(args.base, args.vocabulary)
  where = stimulation.Where(args.stack, args.position)
  heard = stimulation.record(base, shelf, where, args.allow_other_base)
  return overlap.active(heard.after)


def _told(table, scores, kept) -> dict[str, float]:
  """How an indicator goes with the scores of the prompts `kept`."""
  return correlation.correlations(table[np.ix_(kept, kept)], scores)


def _curve(on, args, folder: pathlib.Path, aligned) -> list[str]:
  """ON of different prompts layer by layer, with its level of chance.

  With a matrix, how the ON of each layer alone goes with it, too.
  """
  off = ~np.eye(len(on), dtype=bool)
  tables = overlap.by_layer(on)
  curve = [float(table[off].mean()) for table in tables]
  floor = [
    float(overlap.chance(on, [n])[off].mean()) for n in range(on.shape[1])
  ]
  curves = {'ON': curve, 'chance': floor}
  if aligned:
    rho = [_told(table, *aligned)['without_self'] for table in tables]
    curves['Spearman'] = rho
  files.write_json(folder / 'layers.json', curves)
  if args.plot:
    heatmap.draw_curves(
      curves,
      folder / 'layers.png',
      range(len(curve)),
      (f'layer of the {args.stack}', 'mean over pairs of prompts'),
    )
  lines = ['layer  mean ON  chance' + ('  Spearman' if aligned else '')]
  for n, row in enumerate(zip(*curves.values(), strict=True)):
    said = [f'{n:5d}', f'{row[0]:7.3f}', f'{row[1]:6.3f}']
    lines.append('  '.join([*said, *(f'{rho:8.3f}' for rho in row[2:])]))
  return lines


def _aligned(scores: matrix.Matrix, shelf: Shelf):
  """(square scores, the places of their prompts on the shelf)."""
  names = [n for n in scores.tasks if n in scores.prompts and n in shelf.names]
  if len(names) < 3:
    said = ', '.join(names) or 'none'
    raise UserError(
      f'The matrix and the prompts have {len(names)} tasks in common ({said})'
      '; expected at least 3 that have a row, a column and a prompt: an order '
      'of fewer says nothing. Name the prompts after their tasks.'
    )
  return scores.square(names).scores, [shelf.index(name) for name in names]


def _pairs(names, found) -> str:
  """Every unordered pair as CSV."""
  lines = [','.join(['one', 'other', *found])]
  for i, one in enumerate(names):
    for j in range(i + 1, len(names)):
      values = [f'{table[i, j]:.8g}' for table in found.values()]
      lines.append(','.join([one, names[j], *values]))
  return '\n'.join(lines) + '\n'


def _summary(found) -> list[str]:
  """Range of each indicator over pairs of different prompts."""
  lines = ['indicator     min      mean       max']
  for name, table in found.items():
    values = table[~np.eye(len(table), dtype=bool)]
    if len(values):
      low, mean, high = values.min(), values.mean(), values.max()
      lines.append(f'{name:9}  {low:8.4f}  {mean:8.4f}  {high:8.4f}')
  return lines
