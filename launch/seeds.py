"""Runs the demo over several seeds and prints means and spreads.

    python -m launch.seeds --seeds 0 1 2 --out runs/seeds

Appends a line a seed to OUT/results.jsonl; the same command goes on where it
stopped. Arguments after `--` go to the demo. Prints two Markdown tables.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

from launch import results

ROOT = pathlib.Path(__file__).parents[1]


def table(rows: list[results.Row], examples: int) -> str:
  """What was found: mean and sample standard deviation over seeds.

  Args:
    rows: the demo's JSON objects, one a seed.
    examples: of the test split, for the standard error of one accuracy.
  """
  tests = [row['test'] for row in rows]
  mean, _ = results.mean_spread(tests)
  error = 100 * math.sqrt(mean / 100 * (1 - mean / 100) / examples)
  first, full = rows[0], rows[0]['full']
  seconds, _ = results.mean_spread(row['train_seconds'] for row in rows)
  each = ', '.join(f'{x:.1f}' for x in tests)
  lines = [
    ['majority class', f'{first["majority"]:.1f}'],
    ['untuned model', f'{first["untuned"]:.1f}'],
    [f'tuned prompt, {len(rows)} seeds', f'{results.shown(tests)} ({each})'],
    ['TF-IDF + logistic regression', f'{first["tfidf"]:.1f}'],
    [f'standard error of one accuracy ({examples} examples)', f'{error:.1f}'],
    [
      'trainable parameters',
      f'{first["trainable"]:,} of {first["total_params"]:,}',
    ],
    ['bytes of the prompt file', f'{first["prompt_bytes"]:,}'],
    [f'seconds of training, {first["steps"]} steps', f'{seconds:.0f}'],
  ]
  if full:
    shown = f'{full["mean"]:.1f} ± {full["spread"]:.1f}'
    name = f'full fine-tuning, {len(full["seeds"])} seeds ({full["date"]})'
    lines.insert(4, [name, shown])
  title = f'`{first["task"]}`, test {first["metric"]} in percent'
  return results.markdown([title, ''], lines)


def curve_table(rows: list[results.Row]) -> str:
  """The learning curves: a row a method, a column a number of examples."""
  sizes = sorted(rows[0]['curve'], key=int)
  lines = [
    [name, *(results.shown(r['curve'][n][key] for r in rows) for n in sizes)]
    for name, key in (('prompt', 'prompt'), ('TF-IDF', 'tfidf'))
  ]
  return results.markdown(['examples', *(f'{int(n):,}' for n in sizes)], lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
  parser.add_argument('--out', default='runs/seeds')
  parser.add_argument('demo', nargs='*', help='arguments of the demo')
  args = parser.parse_args()
  out = pathlib.Path(args.out).resolve()
  kept = results.Results(out / 'results.jsonl')
  for seed in args.seeds:
    cell = {'seed': seed, 'arguments': args.demo}
    if not kept.has(**cell):
      where = ['--folder', str(out / str(seed)), '--seed', str(seed)]
      said = subprocess.run(
        [sys.executable, '-m', 'launch.demo', *where, *args.demo],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
      ).stdout
      kept.add({**json.loads(said.splitlines()[-1]), **cell})
  rows = [
    row
    for seed in args.seeds
    for row in kept.where(seed=seed, arguments=args.demo)
  ]
  written = out / str(args.seeds[0]) / 'test' / f'{rows[0]["task"]}.json'
  examples = json.loads(written.read_text())['examples']
  print(table(rows, examples))
  print()
  print(curve_table(rows))


if __name__ == '__main__':
  main()
