"""Runs the demo over several seeds and prints mean and spread.

    python launch/seeds.py --seeds 0 1 2 --out runs/seeds

Writes OUT/results.jsonl, a line a seed, and prints a Markdown table.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

DEMO = pathlib.Path(__file__).with_name('demo.py')


def table(rows: list[dict], examples: int) -> str:
  """The results as Markdown: mean and sample standard deviation over seeds.

  Args:
    rows: the demo's JSON objects, one a seed.
    examples: of the test split, for the standard error of one accuracy.
  """
  tests = [row['test'] for row in rows]
  mean = sum(tests) / len(tests)
  spread = math.sqrt(
    sum((x - mean) ** 2 for x in tests) / max(len(tests) - 1, 1)
  )
  error = 100 * math.sqrt(mean / 100 * (1 - mean / 100) / examples)
  first = rows[0]
  seconds = sum(row['train_seconds'] for row in rows) / len(rows)
  lines = [
    f'| `{first["task"]}`, test {first["metric"]} in percent | |',
    '|---|---|',
    f'| majority class | {first["majority"]:.1f} |',
    f'| untuned model | {first["untuned"]:.1f} |',
    f'| tuned prompt, {len(rows)} seeds | {mean:.1f} ± {spread:.1f} '
    f'({", ".join(f"{x:.1f}" for x in tests)}) |',
    f'| standard error of one accuracy ({examples} examples) | {error:.1f} |',
    f'| trainable parameters | {first["trainable"]:,} of '
    f'{first["total_params"]:,} |',
    f'| bytes of the prompt file | {first["prompt_bytes"]:,} |',
    f'| seconds of training, {first["steps"]} steps | {seconds:.0f} |',
  ]
  return '\n'.join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', nargs='+', default=['0', '1', '2'])
  parser.add_argument('--out', default='runs/seeds')
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  rows, examples = [], 0
  for seed in args.seeds:
    folder = out / seed
    command = [sys.executable, str(DEMO), '--folder', str(folder)]
    said = subprocess.run(
      [*command, '--seed', seed], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    rows.append({'seed': int(seed), **json.loads(said.splitlines()[-1])})
    written = json.loads(
      (folder / 'test' / f'{rows[-1]["task"]}.json').read_text()
    )
    examples = written['examples']
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (out / 'results.jsonl').write_text(text)
  print(table(rows, examples))


if __name__ == '__main__':
  main()
