"""Trains, exports, reloads and evaluates one prompt on what ships.

    make demo            (or: python launch/demo.py [--steps N])

The base never saw the task. The last line of stdout is one JSON object.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

TASK = 'movie_sentiment'
METRIC = 'accuracy'
# Chosen on the validation split; see the model card of `mini`.
SETTINGS = {
  'PROMPT_LENGTH': '16',
  'LEARNING_RATE': '0.03',
  'SCHEDULE': 'linear',
  'TRAIN_STEPS': '600',
  'BATCH_SIZE': '64',
  'TASK_FEATURE_LENGTHS': "{'inputs': 64, 'targets': 4}",
  'EVAL_PERIOD': '100',
  'BEST_METRIC': METRIC,
}
INIT = 'prompts/from_sampled_vocab.gin'


def bindings(settings) -> list[str]:
  """{NAME: VALUE} -> command line arguments."""
  return [f'--gin.{name}={value}' for name, value in settings.items()]


def evaluate(folder: pathlib.Path, prompt: str | None, fresh: bool) -> float:
  """Test metric of the base with a prompt file, or without one.

  Args:
    folder: where the results go.
    prompt: [P,H] .npy, or None.
    fresh: in a new process.
  """
  from prompt_jax import cli

  settings = {
    'MIXTURE_OR_TASK_NAME': TASK,
    'TASK_FEATURE_LENGTHS': SETTINGS['TASK_FEATURE_LENGTHS'],
    'EVAL_OUTPUT_DIR': str(folder),
    'PROMPT_FILE': 'None' if prompt is None else prompt,
  }
  arguments = [
    'eval',
    '--gin_file=models/mini.gin',
    '--gin_file=runs/eval.gin',
    *bindings(settings),
  ]
  if fresh:
    command = [sys.executable, '-m', 'prompt_jax.cli', *arguments]
    subprocess.run(command, check=True)
  elif cli.main(arguments):
    sys.exit(2)
  return json.loads((folder / f'{TASK}.json').read_text())[METRIC]


def majority() -> float:
  """Test accuracy, in percent, of the most frequent class of train."""
  from prompt_jax.tasks import local

  task = local.shipped(TASK)
  train, test = (
    [t for _, t in local.examples(task, s)] for s in ('train', 'test')
  )
  constant = max(set(train), key=train.count)
  return 100 * test.count(constant) / len(test)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--folder', default='runs/demo')
  parser.add_argument('--steps', default=SETTINGS['TRAIN_STEPS'])
  parser.add_argument('--seed', default='0')
  args = parser.parse_args()
  folder = pathlib.Path(args.folder)
  shutil.rmtree(folder, ignore_errors=True)
  from prompt_jax import ginfiles, train

  ginfiles.parse(
    ['models/mini.gin', 'methods/prompt.gin', INIT, 'runs/train.gin'],
    [
      f'{name}={value}'
      for name, value in {
        **SETTINGS,
        'TRAIN_STEPS': args.steps,
        'RANDOM_SEED': args.seed,
        'MIXTURE_OR_TASK_NAME': TASK,
        'MODEL_DIR': str(folder),
      }.items()
    ],
  )
  import gin

  began = time.monotonic()
  summary = train.train(gin.get_configurable(train.Run)())
  seconds = time.monotonic() - began
  best = summary['best_step'] or summary['step']
  prompt = str(folder / 'prompts' / str(best) / f'{TASK}.npy')
  test = evaluate(folder / 'test', prompt, fresh=False)
  untuned = evaluate(folder / 'untuned', None, fresh=False)
  reload_test = evaluate(folder / 'reloaded', prompt, fresh=True)
  size = pathlib.Path(prompt).stat().st_size
  report(
    {
      'task': TASK,
      'metric': METRIC,
      'test': test,
      'untuned': untuned,
      'majority': majority(),
      'steps': summary['step'],
      'best_step': best,
      'train_seconds': round(seconds, 1),
      'trainable': summary['trainable'],
      'total_params': summary['total'],
      'prompt_file': prompt,
      'prompt_bytes': size,
      'reload_test': reload_test,
    }
  )


def report(found: dict) -> None:
  """The table for people, then the JSON line."""
  table = Table(title=f'{TASK}: test {METRIC} in percent')
  table.add_column('what')
  table.add_column('value', justify='right')
  for name, value in (
    ('majority class', f'{found["majority"]:.1f}'),
    ('untuned model', f'{found["untuned"]:.1f}'),
    ('tuned prompt', f'{found["test"]:.1f}'),
    ('the same file in a new process', f'{found["reload_test"]:.1f}'),
    (
      'trainable parameters',
      f'{found["trainable"]:,} of {found["total_params"]:,}',
    ),
    ('bytes of the prompt file', f'{found["prompt_bytes"]:,}'),
  ):
    table.add_row(name, value)
  Console(width=76).print(table)
  print(json.dumps(found), flush=True)


if __name__ == '__main__':
  main()
