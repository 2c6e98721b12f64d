"""Few examples: a transferred prompt against TF-IDF on the very same rows.

    python -m launch.few_shot --models mini --tasks movie_sentiment \
      --shots-total 64 --seeds 0..4 --prompts runs/pretrain/mini/prompts/6000

N rows in all (not a class) are drawn by seed, as even over the classes as they
allow. Nothing else of the task is seen, no validation split: what is chosen is
chosen on two halves of the N rows, by fitting on one and judging on the other,
both ways.

  prompt   1. every .npy of the folder, as it is: mean log p(label | text) over
              the N rows, where p is shared among the labels alone; the
              `--candidates` highest stay.
           2. each of these is tuned for `--trial-steps` on one half and judged
              on the other; the one that is right most often stays, and where
              two are equal the one with the higher mean log p.
           3. from there, `--steps` on all N rows; the last step counts.
           (Retrieval in the manner of SPoT, Vu et al. 2022, section 3, by
           trial instead of by likeness of prompts.)
  TF-IDF   C of {1, 10} by the same two halves, then all N rows.

Appends to OUT/results.jsonl; the same command goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
import itertools
import pathlib
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np

from launch import baselines, results, subset, tuning
import prompt_jax
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import local

METRIC = 'accuracy'
START = 'prompts/from_file.gin'
PATH = 'encoder/prompt/prompt'


def seeds(texts: Sequence[str]) -> list[int]:
  """['0..2', '7'] -> [0, 1, 2, 7]."""
  ranges = (text.partition('..') for text in texts)
  return [
    seed
    for first, _, last in ranges
    for seed in range(int(first), int(last or first) + 1)
  ]


def log_shares(scores: np.ndarray) -> np.ndarray:
  """log p(label) with the labels alone in play, from log p [N,C]."""
  highest = scores.max(axis=1, keepdims=True)
  total = np.log(np.exp(scores - highest).sum(axis=1, keepdims=True))
  return scores - highest - total


def candidates(folder: str, width: int) -> list[pathlib.Path]:
  """The prompts of a folder and below that are as wide as the model.

  Raises: UserError if there is none.
  """
  files = sorted(pathlib.Path(folder).rglob('*.npy'))
  fitting = [f for f in files if saved.load(f, None)[0].shape[1] == width]
  if not fitting:
    raise UserError(
      f'{folder} has {len(files)} .npy files, none of them a prompt of width '
      f'{width}; expected prompts of the base that is tuned. Give their folder '
      'with --prompts.'
    )
  return fitting


def as_they_are(
  base: str,
  files: Sequence[pathlib.Path],
  task: local.FileTask,
  rows: Sequence[tuple[str, str]],
) -> dict[pathlib.Path, float]:
  """{prompt file: mean log p(target | text)} without any tuning.

  Prompts that grew up with a base name the weights that it started from, so
  the digest in their sidecar is not asked for.
  """
  labels = task.target_texts()
  texts, targets = zip(*rows, strict=True)
  right = [labels.index(target) for target in targets]
  model, shape, found = None, None, {}
  for file in files:
    prompt, _ = saved.load(file)
    if prompt.shape != shape:
      shape = prompt.shape
      model = prompt_jax.load(
        base,
        prompt=str(file),
        lengths=tuning.lengths(task),
        batch_size=len(texts),
        allow_other_base=True,
      )
    # the same shapes: what was compiled for the first prompt serves the next
    model.flat = {**model.flat, PATH: jnp.asarray(prompt)}
    shares = log_shares(model.scores(texts, labels))
    found[file] = float(shares[np.arange(len(right)), right].mean())
  return found


def judged(tuned: tuning.Tuned) -> list[tuple[bool, float]]:
  """(right, log p of the target) of each row a run was evaluated on."""
  rows = []
  for row in tuned.predictions():
    names, scores = zip(*row['scores'].items(), strict=True)
    shares = log_shares(np.asarray([scores]))[0]
    right = row['prediction'] == row['target']
    rows.append((right, float(shares[names.index(row['target'])])))
  return rows


class Cell:
  """One model, task and seed.

  Args:
    args: of the command line. model, task, seed: of the cell.
    folder: of its runs.
  """

  def __init__(self, args, model: str, task: str, seed: int, folder):
    self.args, self.model, self.seed = args, model, seed
    self.folder, self.task = pathlib.Path(folder), local.shipped(task)
    self.pairs = {s: local.examples(self.task, s) for s in ('train', 'test')}
    targets = [target for _, target in self.pairs['train']]
    self.rows = subset.choose(targets, args.shots_total, seed)
    self.halves = subset.halves(targets, self.rows)

  def _drawn(self, name: str, parts, keep=()) -> local.FileTask:
    name = f'{self.task.name}_{len(self.rows)}_{self.seed}{name}'
    return subset.drawn(self.task, name, parts, self.folder / 'rows', keep)

  def _picked(self, rows) -> list[tuple[str, str]]:
    return [self.pairs['train'][row] for row in rows]

  def _tune(self, task, file, steps: int, name: str, split: str):
    settings = {
      'PROMPT_FILE': str(file),
      'ALLOW_OTHER_BASE': True,  # they grew up with this base, see above
      'PROMPT_LENGTH': len(saved.load(file)[0]),
      'LEARNING_RATE': self.args.rate,
      'SCHEDULE': 'linear',
      'TRAIN_STEPS': steps,
      'BATCH_SIZE': self.args.batch_size,
      'EVAL_PERIOD': 0,
      'RANDOM_SEED': self.seed,
    }
    where = self.folder / name
    return tuning.tune(
      self.model, task, where, settings, start=START, split=split
    )

  def trial(self, file: pathlib.Path) -> tuple[int, float]:
    """(rows right, mean log p) of a candidate over both halves."""
    rows = []
    for i, (fit, judge) in enumerate([self.halves, self.halves[::-1]]):
      task = self._drawn(f'_half{i}', {'train': fit, 'validation': judge})
      name = f'trials/{file.stem}_{i}'
      rows += judged(
        self._tune(task, file, self.args.trial_steps, name, 'validation')
      )
    right, shares = zip(*rows, strict=True)
    return sum(right), float(np.mean(shares))

  def prompt(self, files: Sequence[pathlib.Path]) -> dict[str, Any]:
    """What the transferred prompt reaches, and how it was chosen."""
    base, rows = tuning.base(self.model), self._picked(self.rows)
    plain = as_they_are(base, files, self.task, rows)
    kept = sorted(files, key=plain.get, reverse=True)[: self.args.candidates]
    trials = {file: self.trial(file) for file in kept}
    best = max(kept, key=trials.get)
    task = self._drawn('', {'train': self.rows}, keep=('test',))
    tuned = self._tune(task, best, self.args.steps, 'run', 'test')
    return {
      'prompt': tuned.metrics()[METRIC],
      'source': best.stem,
      'trials': {file.stem: trials[file] for file in kept},
      'base_digest': tuned.summary['base_digest'],
    }

  def linear(self) -> dict[str, Any]:
    """What TF-IDF reaches on the same rows."""
    one, two = map(self._picked, self.halves)
    found = baselines.tfidf(
      self._picked(self.rows), self.pairs['test'], [(one, two), (two, one)]
    )
    return {'tfidf': found.test, 'C': found.strength}

  def majority(self) -> float:
    """Test accuracy of the class that is most frequent in the whole train
    split: among the rows drawn all are alike."""
    return baselines.majority(self.pairs['train'], self.pairs['test'])


def table(found: Sequence[results.Row]) -> str:
  """Markdown: a row a model and task; mean and spread over the seeds."""
  group = lambda row: (row['task'], row['model'])
  lines = []
  for (task, model), rows in itertools.groupby(sorted(found, key=group), group):
    rows = list(rows)
    apart = [row['prompt'] - row['tfidf'] for row in rows]
    lines.append(
      [
        f'`{task}`, `{model}`',
        rows[0]['n'],
        f'{rows[0]["majority"]:.1f}',
        results.shown(row['tfidf'] for row in rows),
        results.shown(row['prompt'] for row in rows),
        results.shown(apart),
        f'{sum(x > 0 for x in apart)} of {len(rows)}',
      ]
    )
  header = ['test accuracy, %', 'examples', 'majority', 'TF-IDF', 'prompt']
  return results.markdown([*header, 'difference', 'seeds won'], lines)


def cells(args) -> list[dict[str, Any]]:
  """The fields that tell one cell from another, settings included."""
  same = {
    'n': args.shots_total,
    'steps': args.steps,
    'trial_steps': args.trial_steps,
    'candidates': args.candidates,
    'rate': args.rate,
    'batch_size': args.batch_size,
    'prompts': args.prompts,
  }
  weights = {model: tuning.weights(model) for model in args.models}
  return [
    {
      'model': pathlib.Path(model).stem,
      'weights': weights[model],
      'task': task,
      'seed': seed,
      **same,
    }
    for model in args.models
    for task in args.tasks
    for seed in seeds(args.seeds)
  ]


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--models', nargs='+', default=['mini'])
  parser.add_argument('--tasks', nargs='+', default=['movie_sentiment'])
  parser.add_argument('--shots-total', type=int, default=64)
  parser.add_argument('--seeds', nargs='+', default=['0..4'])
  parser.add_argument('--prompts', required=True, help='folder of .npy files')
  parser.add_argument('--candidates', type=int, default=4)
  parser.add_argument('--trial-steps', type=int, default=60)
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--rate', type=float, default=0.3)
  parser.add_argument('--batch-size', type=int, default=16)
  parser.add_argument('--out', default='runs/few_shot')
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  out = pathlib.Path(args.out)
  kept = results.Results(out / 'results.jsonl')
  tuning.share_compiled(out)
  by_name = {pathlib.Path(model).stem: model for model in args.models}
  wanted = cells(args)
  for i, each in enumerate(wanted, 1):
    if not kept.has(**each):
      model, name = by_name[each['model']], each['model']
      width = pretrained.config_of(tuning.base(model)).d_model
      files = candidates(args.prompts, width)
      folder = out / 'cells' / name / each['task'] / f'{each["seed"]}'
      shutil.rmtree(folder, ignore_errors=True)
      cell = Cell(args, model, each['task'], each['seed'], folder)
      found = {'majority': cell.majority(), **cell.linear()}
      kept.add({**each, **found, **cell.prompt(files)})
    (row,) = kept.where(**each)
    print(
      f'{i}/{len(wanted)} {row["model"]} {row["task"]} seed {row["seed"]}: '
      f'TF-IDF {row["tfidf"]:.1f}, prompt {row["prompt"]:.1f} '
      f'(from {row["source"]})',
      flush=True,
    )
  print(table([row for each in wanted for row in kept.where(**each)]))


if __name__ == '__main__':
  main()
