"""Prints the lines of step.py as one Markdown table.

    python benchmarks/table.py step.jsonl [more.jsonl ...]

One row a line, in the order of the files; nothing is averaged or left out.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys

# heading: how a row fills it
_COLUMNS = {
  'model': lambda row: row['model'],
  'method': lambda row: row['method'],
  'dtype': lambda row: row['dtype'],
  'B x T + U, P': lambda row: (
    f'{row["batch"]} x {row["inputs"]} + {row["targets"]}, '
    f'{row["prompt_length"]}'
  ),
  'padding': lambda row: f'{row["padding"]:.0%}',
  'tokens/s': lambda row: f'{row["tokens_per_second"]:,.0f}',
  's/step (min to max)': lambda row: (
    f'{row["seconds_median"]:.4g} '
    f'({row["seconds_min"]:.4g} to {row["seconds_max"]:.4g})'
  ),
  'steps': lambda row: str(row['repeats']),
  'GFLOP/step': lambda row: f'{row["flops"] / 1e9:,.2f}',
  'GFLOP/s': lambda row: f'{row["flops_per_second"] / 1e9:,.1f}',
  'peak GFLOP/s': lambda row: f'{row["peak_flops_per_second"] / 1e9:,.1f}',
  'utilisation': lambda row: f'{row["utilisation"]:.1%}',
  'program MiB': lambda row: f'{row["peak_bytes"] / 2**20:,.0f}',
  'process MiB': lambda row: f'{row["max_rss_bytes"] / 2**20:,.0f}',
  'trainable / total': lambda row: f'{row["trainable"]:,} / {row["total"]:,}',
  'compile s': lambda row: f'{row["compile_seconds"]:.1f}',
  'where': lambda row: (
    f'{row["device"]}, {row["cores"]} cores, jax {row["jax"]}, {row["date"]}'
  ),
  'gin': lambda row: ', '.join(row['bindings']),
  'glibc': lambda row: row['tunables'].replace('glibc.malloc.', ''),
}
# the rest is numbers
_TEXT = ('model', 'method', 'dtype', 'where', 'gin', 'glibc')


def table(rows: Sequence[dict]) -> str:
  """Markdown of rows as step.py writes them; empty columns are left out."""
  cells = {
    heading: [fill(row).replace('|', r'\|') for row in rows]
    for heading, fill in _COLUMNS.items()
  }
  cells = {heading: column for heading, column in cells.items() if any(column)}
  rules = ['---' if heading in _TEXT else '--:' for heading in cells]
  lines = [list(cells), rules, *zip(*cells.values(), strict=True)]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the files that the command line names and prints their table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('files', nargs='+', type=pathlib.Path)
  rows = []
  for path in parser.parse_args(argv).files:
    lines = path.read_text(encoding='utf-8').splitlines()
    rows += [json.loads(line) for line in lines if line]
  if not rows:
    sys.exit('table.py: no line in the files given; expected those of step.py')
  print(table(rows))


if __name__ == '__main__':
  main()
