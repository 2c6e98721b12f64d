"""Full fine-tuning of the shipped bases, the figure a prompt is held against.

    make demo-full
    (or: python -m launch.full_tuning --tasks movie_sentiment --models mini)

Too slow for the demo, which shows what launch/full_tuning.json holds: {task:
{model: {mean, spread, tests, seeds, settings, base_digest, date}}}. The rate
is chosen on the validation split with the first seed, the step with each.
"""

import argparse
from collections.abc import Mapping
import datetime
import json
import pathlib
import shutil
from typing import Any

from launch import results, tuning
from prompt_jax import export_run
from prompt_jax.tasks import local

FILE = pathlib.Path(__file__).with_name('full_tuning.json')
METRIC = 'accuracy'
# Above the constant 1e-3 of Raffel et al. 2020, section 3.1.2: the shipped
# bases are small. On both, and all three tasks, the best is between the ends.
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
SETTINGS = {
  'SCHEDULE': 'linear',
  'BATCH_SIZE': 64,
  'BEST_METRIC': METRIC,
}


def stored(
  task: str, model: str, digest: str, file: pathlib.Path = FILE
) -> dict[str, Any] | None:
  """The stored figure of a task and model, None if of another base or none."""
  table = json.loads(file.read_text()) if file.is_file() else {}
  found = table.get(task, {}).get(model)
  return found if found and found['base_digest'] == digest else None


def store(task: str, model: str, found: Mapping, file: pathlib.Path) -> None:
  """Writes one figure and leaves the others as they are."""
  table = json.loads(file.read_text()) if file.is_file() else {}
  table.setdefault(task, {})[model] = dict(found)
  file.write_text(json.dumps(table, indent=2, sort_keys=True) + '\n')


def test_metric(model: str, task, tuned: tuning.Tuned) -> float:
  """Test metric of the best step of a run, its weights written and read."""
  base = tuned.run.folder / 'whole'
  shutil.rmtree(base, ignore_errors=True)
  export_run.export_run(tuned.run, str(base), tuned.step(), True, 'float32')
  test = tuned.run.folder / 'test'
  found = tuning.evaluate(model, task, test, base=str(base))[METRIC]
  shutil.rmtree(base)
  return found


def figure(model: str, name: str, args, out: pathlib.Path) -> dict[str, Any]:
  """The figure of one task and model: rate by validation, then all seeds."""
  task = local.shipped(name)
  settings = {
    **SETTINGS,
    'TRAIN_STEPS': args.steps,
    'EVAL_PERIOD': max(args.steps // 6, 1),
  }

  def run(rate: float, seed: int) -> tuning.Tuned:
    folder = out / name / pathlib.Path(model).stem / f'{rate:g}_{seed}'
    each = {**settings, 'LEARNING_RATE': rate, 'RANDOM_SEED': seed}
    return tuning.tune(model, task, folder, each, method=tuning.FULL)

  first, *others = args.seeds
  tried = {rate: run(rate, first) for rate in args.rates}
  best = max(tried, key=lambda rate: tried[rate].summary['best'])
  runs = [tried[best], *(run(best, seed) for seed in others)]
  tests = [test_metric(model, task, each) for each in runs]
  mean, spread = results.mean_spread(tests)
  validation = {
    f'{rate:g}': each.summary['best'] for rate, each in tried.items()
  }
  return {
    'metric': METRIC,
    'mean': mean,
    'spread': spread,
    'tests': tests,
    'seeds': list(args.seeds),
    'settings': {**settings, 'LEARNING_RATE': best},
    'validation_by_rate': validation,
    'base_digest': runs[0].summary['base_digest'],
    'date': datetime.date.today().isoformat(),
  }


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--tasks', nargs='+', default=['movie_sentiment'])
  parser.add_argument('--models', nargs='+', default=['mini'])
  parser.add_argument('--rates', nargs='+', type=float, default=RATES)
  parser.add_argument('--seeds', nargs='+', type=int, default=(0, 1, 2))
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--out', default='runs/full_tuning')
  parser.add_argument('--file', default=str(FILE))
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  out, file = pathlib.Path(args.out), pathlib.Path(args.file)
  tuning.share_compiled(out)
  for model in args.models:
    for task in args.tasks:
      found = figure(model, task, args, out)
      store(task, pathlib.Path(model).stem, found, file)
      shown = results.shown(found['tests'])
      print(f'{task}, {model}: test {METRIC} {shown}', flush=True)


if __name__ == '__main__':
  main()
