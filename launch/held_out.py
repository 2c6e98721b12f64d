"""Prompts on the tasks that the shipped bases never saw, over several seeds.

    python -m launch.held_out --models mini midi --seeds 0 1 2

Settings are the defaults of `methods/prompt.gin` and `runs/train.gin`; the
last step counts. Appends to OUT/results.jsonl and prints the table of the model
cards; the same command goes on where it stopped. Beside the prompt stands full
fine-tuning, where launch/full_tuning.json has it for these weights, and what
share of its gain over the most frequent class the prompt reaches.
"""

import argparse
import pathlib

from launch import baselines, full_tuning, results, tuning
from prompt_jax.tasks import local

TASKS = ('movie_sentiment', 'gloss_supersense', 'word_relation')
METRIC = 'accuracy'
# Between two looks at the validation split; the last step counts.
_EVAL_PERIOD = 1000


def cell(model: str, name: str, seed: int, folder: pathlib.Path) -> dict:
  """Test and validation accuracy of one prompt, percent."""
  task = local.shipped(name)
  settings = {'RANDOM_SEED': seed, 'EVAL_PERIOD': _EVAL_PERIOD}
  tuned = tuning.tune(model, task, folder, settings)
  test = tuning.evaluate(model, task, folder / 'test', tuned.prompt())
  return {
    'test': test[METRIC],
    'validation': tuned.metrics()[METRIC],
    'steps': tuned.summary['step'],
    'seconds': round(tuned.summary['train_seconds'], 1),
    'trainable': tuned.summary['trainable'],
    'base_digest': tuned.summary['base_digest'],
  }


def table(rows: list[dict]) -> str:
  """Markdown: a line a model and task."""
  lines = []
  for model, name in dict.fromkeys((r['model'], r['task']) for r in rows):
    own = [r for r in rows if (r['model'], r['task']) == (model, name)]
    tests = [r['test'] for r in own]
    mean, _ = results.mean_spread(tests)
    least = own[0]['majority']
    full = full_tuning.stored(name, model, own[0]['base_digest'])
    share = '-'
    if full:
      share = f'{100 * (mean - least) / (full["mean"] - least):.0f} %'
    lines.append(
      [
        f'`{name}`, `{model}`',
        f'{least:.1f}',
        results.shown(tests),
        f'{full["mean"]:.1f} ± {full["spread"]:.1f}' if full else '-',
        share,
      ]
    )
  header = ['test accuracy, %', 'most frequent class', 'prompt']
  return results.markdown([*header, 'full tuning', 'share of its gain'], lines)


def main(argv=None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--models', nargs='+', default=['mini', 'midi'])
  parser.add_argument('--tasks', nargs='+', default=list(TASKS))
  parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
  parser.add_argument('--out', type=pathlib.Path, default='runs/held_out')
  args = parser.parse_args(argv)
  tuning.share_compiled(args.out)
  found = results.Results(args.out / 'results.jsonl')
  for model in args.models:
    about = {'model': pathlib.Path(model).stem, 'base': tuning.weights(model)}
    for seed in args.seeds:
      for name in args.tasks:
        which = {**about, 'task': name, 'seed': seed}
        if found.has(**which):
          continue
        folder = args.out / '_'.join(map(str, which.values()))
        task = local.shipped(name)
        train, test = (local.examples(task, s) for s in ('train', 'test'))
        found.add(
          {
            **which,
            'majority': baselines.majority(train, test),
            **cell(model, name, seed, folder),
          }
        )
  print(table(found.rows))


if __name__ == '__main__':
  main()
