"""Prompts on the tasks that the shipped bases never saw, over several seeds.

    python -m launch.held_out --models mini midi --seeds 0 1 2

Settings are the defaults of `methods/prompt.gin` and `runs/train.gin`, but a
prompt has `--length` rows if that is given; the last step counts. Appends to
OUT/results.jsonl and prints the table of the model cards; the same command goes
on where it stopped. Beside the prompt stands full fine-tuning, where
launch/full_tuning.json has it for these weights, and what share of its gain
over the most frequent class the prompt reaches.
"""

import argparse
import pathlib

from launch import baselines, full_tuning, results, tuning
from prompt_jax.tasks import local

TASKS = ('movie_sentiment', 'gloss_supersense', 'word_relation')
METRIC = 'accuracy'
# Between two looks at the validation split; the last step counts.
_EVAL_PERIOD = 1000


def cell(model: str, which: results.Row, folder: pathlib.Path) -> results.Row:
  """Test and validation accuracy of one prompt, percent."""
  task = local.shipped(which['task'])
  settings = {'RANDOM_SEED': which['seed'], 'EVAL_PERIOD': _EVAL_PERIOD}
  if 'length' in which:
    settings['PROMPT_LENGTH'] = which['length']
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
  cell_of = lambda row: (row['model'], row['task'], row.get('length'))
  for model, name, length in dict.fromkeys(map(cell_of, rows)):
    own = [row for row in rows if cell_of(row) == (model, name, length)]
    tests = [r['test'] for r in own]
    mean, _ = results.mean_spread(tests)
    least = own[0]['majority']
    full = full_tuning.stored(name, model, own[0]['base_digest'])
    share = '-'
    if full:
      share = f'{100 * (mean - least) / (full["mean"] - least):.0f} %'
    lines.append(
      [
        f'`{name}`, `{model}`' + (f', {length} rows' if length else ''),
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
  parser.add_argument('--length', type=int, help='PROMPT_LENGTH, if another')
  parser.add_argument('--out', type=pathlib.Path, default='runs/held_out')
  args = parser.parse_args(argv)
  tuning.share_compiled(args.out)
  found = results.Results(args.out / 'results.jsonl')
  for model in args.models:
    about = {'model': pathlib.Path(model).stem, 'base': tuning.weights(model)}
    for seed in args.seeds:
      for name in args.tasks:
        which = {**about, 'task': name, 'seed': seed}
        if args.length:
          which['length'] = args.length
        if any(
          row.get('length') == args.length for row in found.where(**which)
        ):
          continue
        folder = args.out / '_'.join(map(str, which.values()))
        task = local.shipped(name)
        train, test = (local.examples(task, s) for s in ('train', 'test'))
        found.add(
          {
            **which,
            'majority': baselines.majority(train, test),
            **cell(model, which, folder),
          }
        )
  print(table(found.rows))


if __name__ == '__main__':
  main()
