"""Tunes one prompt on what ships, and shows what it is worth.

    make demo   (or: python -m launch.demo [--steps N] [--sentences TEXT ...])

Beside the prompt stand the most frequent class, the model without a prompt,
TF-IDF with logistic regression on the same rows, and full fine-tuning (a
stored figure, see launch/full_tuning.py). The base never saw the task. The
last line of stdout is one JSON object.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from launch import baselines, curve, full_tuning, tuning
import prompt_jax
from prompt_jax.tasks import local

MODEL = 'mini'
TASK = 'movie_sentiment'
METRIC = curve.METRIC
# Chosen on the validation split; see the model card of `mini`.
SETTINGS = {
  'PROMPT_LENGTH': 20,
  'LEARNING_RATE': 0.3,
  'SCHEDULE': 'linear',
  'TRAIN_STEPS': 600,
  'BATCH_SIZE': 64,
  'EVAL_PERIOD': 100,
  'BEST_METRIC': METRIC,
}
START = 'prompts/from_sampled_vocab.gin'
FEW = (16, 64, 256)
SENTENCES = (
  'A warm, funny and beautifully acted film.',
  'Two hours of my life that I will never get back.',
  'The plot is thin, yet I could not stop smiling.',
)


def reloaded(model: str, folder: pathlib.Path, prompt: str) -> float:
  """Test metric of the base with a prompt file, by a process of its own."""
  lengths = tuning.lengths(local.shipped(TASK))
  settings = {
    'MIXTURE_OR_TASK_NAME': TASK,
    'TASK_FEATURE_LENGTHS': lengths,
    'EVAL_OUTPUT_DIR': folder,
    'PROMPT_FILE': prompt,
  }
  command = [
    *(sys.executable, '-m', 'prompt_jax.cli', 'eval'),
    *(f'--gin_file={tuning.model_file(model)}', '--gin_file=runs/eval.gin'),
    *(f'--gin.{name}={value}' for name, value in settings.items()),
  ]
  subprocess.run(command, check=True, stdout=sys.stderr)
  return json.loads((folder / f'{TASK}.json').read_text())[METRIC]


def classified(base: str, prompt: str, texts) -> list[dict]:
  """Each text with the probability of each label, the labels alone in play.

  Returns: [{'text', 'label', 'probabilities': {label: p}}].
  """
  task = local.shipped(TASK)
  labels = task.target_texts()
  model = prompt_jax.load(
    base, prompt=prompt, lengths=tuning.lengths(task), batch_size=len(texts)
  )
  scores = model.scores([task.template.format(text=t) for t in texts], labels)
  odds = np.exp(scores - scores.max(axis=1, keepdims=True))
  shares = odds / odds.sum(axis=1, keepdims=True)
  return [
    {
      'text': text,
      'label': labels[row.argmax()],
      'probabilities': dict(zip(labels, map(float, row), strict=True)),
    }
    for text, row in zip(texts, shares, strict=True)
  ]


def measured(args, folder: pathlib.Path) -> dict:
  """All that the demo finds, as its JSON line holds it."""
  task, seed = local.shipped(TASK), args.seed
  settings = {**SETTINGS, 'TRAIN_STEPS': args.steps, 'RANDOM_SEED': seed}
  pairs = {split: local.examples(task, split) for split in task.files}
  linear = baselines.tfidf(
    pairs['train'], pairs['test'], [(pairs['train'], pairs['validation'])]
  )
  began = time.monotonic()
  tuned = tuning.tune(args.model, task, folder, settings, start=START)
  seconds = time.monotonic() - began
  prompt, summary = tuned.prompt(), tuned.summary
  print(frozen(tuned), flush=True)
  prompted = tuning.evaluate(args.model, task, folder / 'test', prompt)
  untuned = tuning.evaluate(args.model, task, folder / 'untuned')
  few = {
    n: curve.point(
      args.model, task, n, seed, folder / f'few_{n}', settings, START
    )
    for n in args.few
  }
  whole = {'prompt': prompted[METRIC], 'tfidf': linear.test}
  return {
    'task': TASK,
    'metric': METRIC,
    'test': prompted[METRIC],
    'untuned': untuned[METRIC],
    'majority': baselines.majority(pairs['train'], pairs['test']),
    'tfidf': linear.test,
    'full': full_tuning.stored(
      TASK, pathlib.Path(args.model).stem, summary['base_digest']
    ),
    'curve': {**few, len(pairs['train']): whole},
    'sentences': classified(tuned.run.base, prompt, args.sentences),
    'steps': summary['step'],
    'best_step': tuned.step(),
    'train_seconds': round(seconds, 1),
    'trainable': summary['trainable'],
    'total_params': summary['total'],
    'prompt_file': prompt,
    'prompt_bytes': pathlib.Path(prompt).stat().st_size,
    'reload_test': reloaded(args.model, folder / 'reloaded', prompt),
    'model': args.model,
    'seed': seed,
  }


def frozen(tuned: tuning.Tuned) -> str:
  """One line: what is frozen, and how large what was trained is."""
  summary, file = tuned.summary, pathlib.Path(tuned.prompt())
  rows, width = np.load(file).shape
  return (
    f'Frozen: {tuned.run.base}, {summary["total"] - summary["trainable"]:,} '
    f'parameters ({tuning.weight(tuned.run.base):,} bytes). Trained: a prompt '
    f'of {rows} x {width} numbers, a file of {file.stat().st_size:,} bytes.'
  )


def full_row(full: dict | None) -> tuple[str, str]:
  """The row of full fine-tuning, or how to get one."""
  if full is None:
    return 'full fine-tuning (for this base: make demo-full)', '-'
  name = f'full fine-tuning, {len(full["seeds"])} seeds, on {full["date"]}'
  return name, f'{full["mean"]:.1f} ± {full["spread"]:.1f}'


def report(found: dict, folder: pathlib.Path) -> None:
  """Tables and bars for people, then the JSON line."""
  console = Console(width=76, highlight=False, markup=False)
  rows = max(found['curve'])
  table = Table(title=f'{TASK}: test {METRIC} in percent, {rows:,} examples')
  table.add_column('what')
  table.add_column('value', justify='right')
  for name, value in (
    ('majority class', f'{found["majority"]:.1f}'),
    ('untuned model', f'{found["untuned"]:.1f}'),
    ('tuned prompt', f'{found["test"]:.1f}'),
    ('the same file in a new process', f'{found["reload_test"]:.1f}'),
    ('TF-IDF + logistic regression', f'{found["tfidf"]:.1f}'),
    full_row(found['full']),
    (
      'trainable parameters',
      f'{found["trainable"]:,} of {found["total_params"]:,}',
    ),
    ('bytes of the prompt file', f'{found["prompt_bytes"]:,}'),
  ):
    table.add_row(name, value)
  console.print(table)
  points = found['curve']
  console.print('test accuracy by training examples (│: majority class)')
  console.print(curve.bars(points, found['majority']))
  file = folder / 'curve.png'
  drawn = curve.picture(points, found['majority'], TASK, file)
  console.print(f'{file}' if drawn else 'pip install matplotlib draws it too')
  for each in found['sentences']:
    shares = ', '.join(f'{k} {p:.2f}' for k, p in each['probabilities'].items())
    console.print(f'"{each["text"]}"\n    {each["label"]} ({shares})')
  print(json.dumps(found), flush=True)


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', default=MODEL, help='of gin/models, or a file')
  parser.add_argument('--folder', default='runs/demo')
  parser.add_argument('--steps', type=int, default=SETTINGS['TRAIN_STEPS'])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--few', type=int, nargs='*', default=FEW)
  parser.add_argument('--sentences', nargs='+', default=SENTENCES)
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  folder, began = pathlib.Path(args.folder), time.monotonic()
  shutil.rmtree(folder, ignore_errors=True)
  tuning.share_compiled(folder)
  found = measured(args, folder)
  found['seconds'] = round(time.monotonic() - began, 1)
  report(found, folder)


if __name__ == '__main__':
  main()
