"""A report of what is in a folder: one HTML file that needs no network.

    prompt-jax report runs/ --output report.html

Looks through DIR and all folders in it for what the commands of this package
write: runs (metrics.jsonl, stages.json, seeds.json), transfer studies
(matrix.csv, relative.csv, indicators.csv, spearman.json, layers.json,
masked.json, projected.json), and what a study finds, in two general files:

    tables.json  {heading: {'head': [..], 'rows': [[..]], 'shaded', 'notes'}}
    curves.json  {heading: {'across': name, 'lines': {name: [[x, y], ..]}}}

Figures are SVG inside the file; it reads on a
phone, in light and dark.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import csv
import html
import json
import math
import os
import pathlib
from typing import Any

from prompt_jax import files
from prompt_jax.errors import UserError

# of a figure in SVG's units: a phone's width, so that its text stays legible
_WIDE, _HIGH, _EDGE = 380, 210, 40
_COLORS = ('#3a6ea5', '#c8553d', '#588157', '#8e6c8a', '#b08900', '#4a7c8c')
_STYLE = """
:root{color-scheme:light dark;--line:#8886}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;
padding:1rem}h2{border-bottom:1px solid var(--line);margin-top:2rem}
h1,h2,h3,h4,p,.key{overflow-wrap:anywhere}h3,h4{margin-bottom:.3rem}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.85rem}
td,th{padding:.15rem .5rem;text-align:right;border:1px solid var(--line)}
td:first-child,th:first-child{text-align:left;position:sticky;left:0;
background:Canvas}
svg{display:block;width:100%;max-width:34rem;height:auto}
text{font:11px system-ui,sans-serif;fill:currentColor}
.key{font-size:.85rem}.warn{color:#c8553d;font-weight:600}
"""

# What a file of another kind makes a section stumble over.
_UNLIKE = (LookupError, TypeError, ValueError, AttributeError, StopIteration)
_Section = Callable[[pathlib.Path], str]


def number(value: Any, decimals: int = 2) -> str:
  """A cell: numbers rounded, None and nan as '-', texts as they are."""
  if value is None or isinstance(value, float) and math.isnan(value):
    return '-'
  if isinstance(value, bool) or not isinstance(value, float):
    return _text(value)
  small = value and abs(value) < 10**-decimals
  return f'{value:.1e}' if small else f'{value:,.{decimals}f}'


def _text(value: Any) -> str:
  """A text that a column breaks behind underscores, not around '±'."""
  text = html.escape(str(value)).replace(' ± ', '&nbsp;±&nbsp;')
  return text.replace('_', '_<wbr>')


def table(
  head: Sequence[str], rows: Sequence[Sequence], shaded: bool = False
) -> str:
  """An HTML table; `shaded` colours each number by its place in the range."""
  known = [x for row in rows for x in row[1:] if isinstance(x, float)]
  known = [x for x in known if math.isfinite(x)]
  low, span = (min(known), max(known) - min(known)) if known else (0.0, 0.0)

  def cell(value, first):
    shade = ''
    real = isinstance(value, float) and math.isfinite(value)
    if shaded and not first and real and span:
      share = 0.65 * (value - low) / span
      shade = f' style="background:rgba(58,110,165,{share:.2f})"'
    return f'<td{shade}>{number(value)}</td>'

  top = ''.join(f'<th>{_text(name)}</th>' for name in head)
  body = ''.join(
    '<tr>' + ''.join(cell(x, not i) for i, x in enumerate(row)) + '</tr>'
    for row in rows
  )
  return f'<div class=scroll><table><tr>{top}</tr>{body}</table></div>'


def chart(lines: Mapping[str, Sequence[tuple[float, float]]], across: str):
  """Curves as SVG, with their key below.

  Args:
    lines: {name: [(x, y), ...]}; points that are not finite are left out.
    across: what x is.
  Returns: HTML; '' where there is no point.
  """
  kept = {
    name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    for name, points in lines.items()
  }
  kept = {name: points for name, points in kept.items() if points}
  if not kept:
    return ''
  xs = [x for points in kept.values() for x, _ in points]
  ys = [y for points in kept.values() for _, y in points]
  place = lambda v, low, high, size: (
    size * (0.5 if high == low else (v - low) / (high - low))
  )
  right, top = _WIDE - 2 * _EDGE, _HIGH - 2 * _EDGE

  def at(x, y):
    across_, up = (
      place(x, min(xs), max(xs), right),
      place(y, min(ys), max(ys), top),
    )
    return f'{_EDGE + across_:.1f},{_HIGH - _EDGE - up:.1f}'

  drawn, key = [], []
  for i, (name, points) in enumerate(kept.items()):
    color = _COLORS[i % len(_COLORS)]
    path = ' '.join(at(*point) for point in points)
    drawn.append(
      f'<polyline points="{path}" fill="none" stroke="{color}" '
      'stroke-width="2"/>'
    )
    if len(points) == 1:
      x, y = path.split(',')
      drawn.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>')
    key.append(
      f'<span style="color:{color}">&#9632;</span> {html.escape(name)}'
    )
  base = _HIGH - _EDGE
  axes = (
    f'<path d="M{_EDGE} {_EDGE}V{base}H{_WIDE - _EDGE}" fill="none" '
    'stroke="currentColor" stroke-opacity=".4"/>'
  )
  return (
    f'<svg viewBox="0 0 {_WIDE} {_HIGH}">{axes}'
    f'{"".join(drawn)}{_ends(xs, ys, across)}</svg><div class=key>'
    f'{" &nbsp; ".join(key)}</div>'
  )


def _ends(xs: Sequence[float], ys: Sequence[float], across: str) -> str:
  """The ends of both axes; where both are one, it is said once."""
  base, right = _HIGH - _EDGE, _WIDE - _EDGE
  said = [(_WIDE // 2, base + 32, 'middle', html.escape(across))]
  up, along = [number(float(f(ys))) for f in (min, max)], [min(xs), max(xs)]
  if up[0] == up[1]:
    said.append((2, _HIGH // 2, 'start', up[0]))
  else:
    said += [(2, base, 'start', up[0]), (2, _EDGE, 'start', up[1])]
  if along[0] == along[1]:
    said.append((_WIDE // 2, base + 16, 'middle', f'{along[0]:g}'))
  else:
    said.append((_EDGE, base + 16, 'start', f'{along[0]:g}'))
    said.append((right, base + 16, 'end', f'{along[1]:g}'))
  return ''.join(
    f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
    for x, y, anchor, text in said
  )


def _run(path: pathlib.Path) -> str:
  """Curves of a run, and its last evaluation."""
  points = [json.loads(line) for line in path.read_text().splitlines()]
  groups: dict[str, list] = {'train': [], 'eval': []}
  for point in points:
    groups.setdefault(point.get('group', 'train'), []).append(point)
  loss = [(p['step'], p['loss']) for p in groups['train'] if 'loss' in p]
  said = chart({'training loss': loss}, 'step')
  skip = {'step', 'group', 'seconds'}
  names = list(dict.fromkeys(k for p in groups['eval'] for k in p))
  names = [name for name in names if name not in skip]
  curves = {
    n: [(p['step'], p[n]) for p in groups['eval'] if n in p] for n in names
  }
  said += chart({n: c for n, c in curves.items() if n != 'outside'}, 'step')
  rows = [
    [n, float(c[-1][1]), float(max(y for _, y in c)), c[-1][0]]
    for n, c in curves.items()
  ]
  head = ['evaluation', 'last', 'highest', 'at last step']
  return said + (table(head, rows) if rows else '')


def _matrix(path: pathlib.Path) -> str:
  head, *rows = list(csv.reader(path.read_text().splitlines()))
  cells = [[r[0], *(float(x or 'nan') for x in r[1:])] for r in rows]
  return table(head, cells, shaded=True)


def _indicators(path: pathlib.Path) -> str:
  with path.open() as file:
    rows = list(csv.DictReader(file))
  names = [name for name in rows[0] if name not in ('one', 'other')]
  cells = [
    [f'{r["one"]} / {r["other"]}', *(float(r[n]) for n in names)] for r in rows
  ]
  by = 'ON' if 'ON' in names else names[-1]
  at = 1 + names.index(by)
  shown = sorted(cells, key=lambda row: -row[at])[:40]
  return table([f'pair, the most alike by {by} first', *names], shown)


def _spearman(path: pathlib.Path) -> str:
  found = json.loads(path.read_text())
  names = list(next(iter(found.values())))
  rows = [[k, *(v[n] for n in names)] for k, v in found.items()]
  return table(['indicator', *(n.replace('_', ' ') for n in names)], rows)


def _layers(path: pathlib.Path) -> str:
  found = json.loads(path.read_text())
  return chart({k: list(enumerate(v)) for k, v in found.items()}, 'layer')


def _masked(path: pathlib.Path) -> str:
  said = []
  mean = lambda values: sum(values) / len(values) if values else math.nan
  for task, found in json.loads(path.read_text()).items():
    start = [(0.0, found['none'])]
    rows = found['masked']
    curves = {
      'own': [(r['ratio'], r['own']) for r in rows],
      'random': [(r['ratio'], mean(r['random'])) for r in rows],
      'other': [(r['ratio'], mean(list(r['other'].values()))) for r in rows],
    }
    known = lambda points: any(math.isfinite(y) for _, y in points)
    curves = {k: start + v for k, v in curves.items() if known(v)}
    said.append(f'<h4>{html.escape(task)}</h4>')
    said.append(chart(curves, 'share of neurons masked'))
  return ''.join(said)


def _projected(path: pathlib.Path) -> str:
  found = json.loads(path.read_text())
  kinds = list(dict.fromkeys(k for s in found['scores'].values() for k in s))
  rows = [[t, *(s.get(k) for k in kinds)] for t, s in found['scores'].items()]
  said = table(['task', *kinds], rows)
  about = found['diagnostic']
  if about.get('direction_ratio', 1.0) < 0.01:  # see transfer.collapse
    said += '<p class=warn>The projector has collapsed.</p>'
  return said + table(['diagnostic', ''], [[k, v] for k, v in about.items()])


def _stages(path: pathlib.Path) -> str:
  found = json.loads(path.read_text())
  rows = found['stages']
  head = list(rows[0]) if rows else []
  said = table(head, [[row.get(name) for name in head] for row in rows])
  saved = found.get('saved') or {}
  cells = [[k, v if v is None else 100.0 * v] for k, v in saved.items()]
  return said + (table(['saved', 'percent'], cells) if cells else '')


def _seeds(path: pathlib.Path) -> str:
  found = json.loads(path.read_text())
  seeds = [f'seed {seed}' for seed in found['seeds']]
  rows = [
    [name, m['mean'], m['std'], *m['each']]
    for name, m in found['metrics'].items()
  ]
  return table(['metric', 'mean', 'standard deviation', *seeds], rows)


def _tables(path: pathlib.Path) -> str:
  said = []
  for heading, each in json.loads(path.read_text()).items():
    said.append(f'<h4>{html.escape(heading)}</h4>')
    said.append(table(each['head'], each['rows'], each.get('shaded', False)))
    said += [f'<p>{html.escape(line)}</p>' for line in each.get('notes', ())]
  return ''.join(said)


def _curves(path: pathlib.Path) -> str:
  said = []
  for heading, each in json.loads(path.read_text()).items():
    said.append(f'<h4>{html.escape(heading)}</h4>')
    said.append(chart(each['lines'], each['across']))
  return ''.join(said)


_FILES: dict[str, tuple[str, _Section]] = {
  'tables.json': ('Findings', _tables),
  'curves.json': ('Curves', _curves),
  'metrics.jsonl': ('Runs', _run),
  'seeds.json': ('Seeds', _seeds),
  'stages.json': ('Stages and what they save', _stages),
  'matrix.csv': ('Transfer, percent', _matrix),
  'relative.csv': ('Transfer, relative to the own prompt', _matrix),
  'indicators.csv': ('Indicators', _indicators),
  'spearman.json': ('Spearman of indicators with transfer', _spearman),
  'layers.json': ('Overlap of neurons, layer by layer', _layers),
  'masked.json': ('Masked neurons, score in percent', _masked),
  'projected.json': ('Projected prompts', _projected),
}


def page(folder: str | os.PathLike) -> str:
  """The report of a folder, as HTML.

  Raises: UserError if there is nothing to report, or a file is not what its
    name says.
  """
  folder = pathlib.Path(folder).expanduser()
  parts = [f'<h1>{html.escape(folder.resolve().name)}</h1>']
  for name, (heading, section) in _FILES.items():
    paths = sorted(folder.rglob(name)) if folder.is_dir() else []
    if paths:
      parts.append(f'<h2>{html.escape(heading)}</h2>')
    for path in paths:
      where = html.escape(str(path.relative_to(folder).parent))
      named = f'<h3>{where}</h3>' if where != '.' else ''
      parts.append(f'{named}{_made(section, path)}')
  if len(parts) == 1:
    raise UserError(
      f'There is nothing to report in {folder}; expected a folder with runs '
      f'or transfer studies below it: {", ".join(_FILES)}. Give the folder '
      'that holds your MODEL_DIRs.'
    )
  return (
    '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport '
    f'content="width=device-width,initial-scale=1"><title>{parts[0][4:-5]}'
    f'</title><style>{_STYLE}</style>{"".join(parts)}</html>\n'
  )


def _made(section: _Section, path: pathlib.Path) -> str:
  try:
    return section(path)
  except _UNLIKE as error:
    raise UserError(
      f'{path} cannot be reported: {error!r}. Expected a file as the commands '
      'of this package write it. Move it out of the folder, or delete it and '
      'run its command again.'
    ) from error


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `prompt-jax report`."""
  parser.add_argument('folder', help='searched for runs and studies')
  parser.add_argument('--output', default='report.html', help='HTML to write')


def run(args: argparse.Namespace) -> list[str]:
  """`prompt-jax report`. Returns: what it prints."""
  files.write_text(pathlib.Path(args.output).expanduser(), page(args.folder))
  return [args.output]


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('report')
