"""Transfer of prompts between tasks and bases that come along, in one report.

    python -m launch.transfer_study --models mini midi --seeds 0 1 2

For every model and seed: a prompt a task from one start; each on each task;
indicators and how they go with that; neurons masked. Then, from the prompt
that is most alike and the least: the steps to what scratch reaches. From each
model to the next: projectors by the task loss as released and with scaled
sources, by distance, by both, and a blind one; zero-shot and as a start.
Scores are of the test split, curves of the validation split; nothing is
chosen by the former.

Every cell is a line of OUT/results.jsonl; the same command goes on where it
stopped. OUT/report.html shows it all; tables: OUT/found/tables.json.
Source: Su et al. 2022, sections 4 to 6.
"""

import argparse
from collections.abc import Iterator, Sequence
import csv
import json
import pathlib
import shutil
from typing import Any

from launch import results, transfer_found, tuning
from prompt_jax import files, report
from prompt_jax.tasks import local
from prompt_jax.transfer import command, matrix, speed

# Three families of the shipped tasks, see assets/tasks/README.md.
TYPES = {
  'sentiment': ('movie_sentiment', 'amazon_sentiment', 'tweet_sentiment'),
  'lexical': ('gloss_supersense', 'gloss_pos', 'word_relation'),
  'style': ('bible_section', 'sotu_era'),
}
# Those that the shipped bases were not trained on, see `launch.held_out`.
TARGETS = ('movie_sentiment', 'gloss_supersense', 'word_relation')
METRIC = 'accuracy'
_BATCH = 64  # rows of an evaluation batch
VARIANTS = {  # of projectors: flags of `prompt-jax transfer project`
  'released': ('--objective', 'task'),
  'task': ('--objective', 'task', '--scaled'),
  # without a norm at the end: rows of trained prompts are some fifteen times
  # as long as normed ones
  'distance': ('--objective', 'distance', '--scaled', '--no_norm'),
  'both': ('--objective', 'both', '--scaled', '--no_norm', '--weight', '0.01'),
  'blind': ('--objective', 'task', '--scaled', '--blind'),
}
STARTS = ('task', 'distance')  # whose prompts are started from


def transfer(*argv: Any) -> None:
  """`prompt-jax transfer`, in this process."""
  parser = argparse.ArgumentParser()
  command.flags(parser)
  args = parser.parse_args([str(each) for each in argv])
  print('\n'.join(command.run(args)), flush=True)


def similarities(file: pathlib.Path, task: str, name: str) -> dict[str, float]:
  """{other task: indicator}, of a task in an indicators.csv."""
  found = {}
  with file.open() as rows:
    for row in csv.DictReader(rows):
      pair = {row['one'], row['other']}
      if task in pair and len(pair) == 2:
        found[(pair - {task}).pop()] = float(row[name])
  return found


class Study:
  """The cells of a study, and what fills them.

  Args: args: those of the command line.
  """

  def __init__(self, args: argparse.Namespace):
    self.args, self.out = args, pathlib.Path(args.out)
    self.tasks = {name: local.shipped(name) for name in args.tasks}
    # of all tasks, so that their runs share what is compiled
    self.lengths = tuning.lengths(*self.tasks.values())
    for task in self.tasks.values():
      local.register(task)
    self.kept = results.Results(self.out / 'results.jsonl')
    self.types = {
      kind: [name for name in names if name in self.tasks]
      for kind, names in TYPES.items()
    }
    files.write_json(self.out / 'types.json', self.types)

  def about(self, model: str, seed: int) -> results.Row:
    """What all cells of a model and seed have in common."""
    same = {
      'steps': self.args.steps,
      'batch_size': self.args.batch_size,
      'length': self.args.length,
      'looks': self.args.looks,
    }
    return {
      'model': model,
      'base': tuning.weights(model),
      'seed': seed,
      **same,
    }

  def folder(self, model: str, seed: int) -> pathlib.Path:
    """Where the prompts and tables of a model and seed are."""
    return self.out / 'each' / pathlib.Path(model).stem / f'seed_{seed}'

  def _run_folder(self, cell: results.Row, start: str) -> pathlib.Path:
    name = pathlib.Path(cell['model']).stem
    said = (name, cell['base'], cell['task'], start)
    said += tuple(
      cell[key] for key in ('seed', 'steps', 'batch_size', 'length', 'looks')
    )
    return self.out / 'runs' / '_'.join(map(str, said))

  def _tuned(self, cell, start: str, file=None) -> tuning.Tuned:
    """A prompt of a task from scratch, or from a saved one."""
    steps, shown = self.args.steps, self.args.examples
    settings = {
      'TASK_FEATURE_LENGTHS': self.lengths,
      'LENGTH_BUCKETS': tuning.BUCKETS,
      'BATCH_SIZE': self.args.batch_size,
      'RANDOM_SEED': cell['seed'],  # one start for all tasks of a seed
      'TRAIN_STEPS': steps,
      'EVAL_PERIOD': max(1, steps // self.args.looks),
      'EVAL_STEPS': -(-shown // _BATCH),
      'EVAL_BATCH_SIZE': _BATCH,
      'PROMPT_LENGTH': self.args.length,
      'SCHEDULE': 'constant',  # Su et al. 2022; a decay would set the pace
    }
    options: dict[str, Any] = {}
    if file is not None:
      settings['PROMPT_FILE'] = str(file)
      options['start'] = 'prompts/from_file.gin'
    folder = self._run_folder(cell, start)
    task = self.tasks[cell['task']]
    return tuning.tune(cell['model'], task, folder, settings, **options)

  def prompt(self, cell: results.Row) -> results.Row:
    """Tunes the prompt of a task and puts it on the shelf of its seed."""
    tuned = self._tuned(cell, 'scratch')
    where = self.folder(cell['model'], cell['seed']) / 'prompts'
    where.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tuned.prompt())
    for suffix in ('.json', '.npy'):  # the sidecar first, as they are saved
      kept = where / f'{cell["task"]}{suffix}'
      shutil.copyfile(made.with_suffix(suffix), kept)
    curve = speed.curve(tuned.run.folder, METRIC)
    return {**tuned.figures(METRIC), 'curve': sorted(curve.items())}

  def reading(self, tasks: Sequence[str]) -> list[Any]:
    """The flags of how tasks are read and answered."""
    longest = self.lengths['targets']
    shown = ('--split', 'test', '--max_examples', self.args.examples)
    read = ('--how', 'rank', '--target_length', longest)
    return ['--tasks', *tasks, *shown, *read]

  def transferred(self, cell: results.Row) -> results.Row:
    """Every prompt on every task; indicators, and how they go with that."""
    where, base = self.folder(cell['model'], cell['seed']), cell['model']
    given = ('--prompts', where / 'prompts', '--base', tuning.base(base))
    types = ('--types', self.out / 'types.json', '--random_seed', cell['seed'])
    to = where / 'transfer'
    transfer(
      'matrix', *given, '--output', to, *types, *self.reading([*self.tasks])
    )
    scores = to / 'matrix.csv'
    transfer(
      'indicators', *given, '--output', where / 'alike', '--matrix', scores
    )
    return {
      'by_type': matrix.by_type(matrix.read(scores), self.types),
      'spearman': json.loads((where / 'alike' / 'spearman.json').read_text()),
    }

  def masked(self, cell: results.Row) -> results.Row:
    """Every task without its prompt's neurons, others, and random ones."""
    where = self.folder(cell['model'], cell['seed'])
    given = ('--prompts', where / 'prompts')
    given += ('--base', tuning.base(cell['model']))
    how = ('--ratios', *self.args.ratios, '--draws', 2, '--others', 2)
    seed = ('--random_seed', cell['seed'], '--stack', self.args.stack)
    tasks = self.reading([*self.tasks])
    to = where / 'neurons'
    transfer('neurons', *given, *how, *seed, *tasks, '--output', to)
    return {'masked': json.loads((to / 'masked.json').read_text())}

  def projected(self, cell: results.Row) -> results.Row:
    """A projector of the prompts of one model to those of another."""
    source, target = (
      self.folder(cell[which], cell['seed']) / 'prompts'
      for which in ('source', 'model')
    )
    variant = cell['variant']
    to, trained = self._projector(cell), self.args.projector_tasks
    base = ('--base', tuning.base(cell['model']), '--prompts', source)
    own = ('--target_prompts', target)
    how = (
      *VARIANTS[variant],
      *(own if variant in ('distance', 'both') else ()),
    )
    steps = self.args.projector_steps
    if variant == 'distance':  # which runs no model
      steps = self.args.distance_steps
      how += ('--rate', self.args.distance_rate)
    pace = ('--steps', steps, '--random_seed', cell['seed'])
    # what is looked at while it trains is no test
    looks = [*self.reading(trained), '--split', 'validation']
    transfer('project', *base, *looks, *how, *pace, '--output', to)
    file = ('--projector', to / 'projector.npz', '--random_seed', cell['seed'])
    shown = self.reading([*self.tasks])
    transfer('projected', *base, *file, *own, *shown, '--output', to)
    found = json.loads((to / 'projected.json').read_text())
    return {**found, 'trained': trained}

  def _projector(self, cell: results.Row) -> pathlib.Path:
    """The folder of a projector, and of what it makes."""
    pair = [pathlib.Path(cell[which]).stem for which in ('source', 'model')]
    named = f'{"_to_".join(pair)}/seed_{cell["seed"]}'
    return self.out / 'each' / named / cell['variant']

  def started(self, cell: results.Row) -> results.Row:
    """Tunes from another prompt; the steps that saves."""
    where = self.folder(cell['model'], cell['seed'])
    said: dict[str, Any] = {}
    if cell['start'] in ('most', 'least'):
      alike = similarities(
        where / 'alike' / 'indicators.csv', cell['task'], self.args.indicator
      )
      pick = max if cell['start'] == 'most' else min
      name = pick(alike, key=alike.get)
      file = where / 'prompts' / f'{name}.npy'
      said = {'from': name, 'alike': alike[name]}
    else:
      file = self._projector({**cell, 'variant': cell['start']}) / 'prompts'
      file /= f'{cell["task"]}.npy'
      said = {'from': cell['source'], 'alike': None}
    tuned = self._tuned(cell, '_'.join(self._start(cell)), file)
    curve = speed.curve(tuned.run.folder, METRIC)
    same = self.about(cell['model'], cell['seed'])
    same['task'] = cell['task']
    scratch = dict(self.kept.where(what='prompt', **same)[-1]['curve'])
    curves = {
      'curve': sorted(curve.items()),
      'scratch': sorted(scratch.items()),
    }
    return {**said, **speed.speedup(scratch, curve), **curves}

  @staticmethod
  def _start(cell: results.Row) -> tuple[str, ...]:
    source = cell.get('source')
    return (cell['start'], *([pathlib.Path(source).stem] if source else ()))

  def cells(self) -> Iterator[tuple[Any, results.Row]]:
    """(what fills it, cell) of the whole study, in the order of need."""
    models, seeds = self.args.models, self.args.seeds
    each = {(m, s): self.about(m, s) for m in models for s in seeds}
    shown = {'tasks': [*self.tasks], 'examples': self.args.examples}
    for same in each.values():
      for task in self.tasks:
        yield self.prompt, {**same, 'what': 'prompt', 'task': task}
      yield self.transferred, {**same, **shown, 'what': 'transfer'}
      ratios = {'ratios': self.args.ratios, 'stack': self.args.stack}
      yield self.masked, {**same, **shown, **ratios, 'what': 'masked'}
      for task in self.args.targets:
        for start in ('most', 'least'):
          more = {'what': 'speed', 'task': task, 'start': start}
          more |= {'indicator': self.args.indicator}
          yield self.started, {**same, **more}
    pace = {
      'projector_steps': self.args.projector_steps,
      'distance_steps': self.args.distance_steps,
      'distance_rate': self.args.distance_rate,
      'projector_tasks': [*self.args.projector_tasks],
    }
    for (source, target), seed in (
      (pair, seed)
      for pair in zip(models, models[1:], strict=False)
      for seed in seeds
    ):
      same = {**each[target, seed], 'source': source, **pace}
      for variant in VARIANTS:
        more = {'what': 'projector', 'variant': variant}
        yield self.projected, {**same, **shown, **more}
      for task in self.args.targets:
        for start in STARTS:
          more = {'what': 'speed', 'task': task, 'start': start}
          yield self.started, {**same, **more}

  def carry_out(self) -> list[results.Row]:
    """The rows of all cells; those that are missing are made."""
    cells, rows = list(self.cells()), []
    for number, (make, cell) in enumerate(cells, 1):
      if not self.kept.has(**cell):
        self.kept.add({**cell, **make(cell)})
      rows.append(self.kept.where(**cell)[-1])
      told = (cell.get(k, '') for k in ('what', 'task', 'start', 'variant'))
      said = ' '.join(filter(None, [cell['model'], *told]))
      print(f'{number}/{len(cells)} seed {cell["seed"]} {said}', flush=True)
    return rows

  def show(self, rows: Sequence[results.Row]) -> pathlib.Path:
    """Writes found/ and the report of it."""
    found = self.out / 'found'
    shutil.rmtree(found, ignore_errors=True)
    files.write_json(found / 'tables.json', transfer_found.tables(rows))
    files.write_json(found / 'curves.json', transfer_found.curves(rows))
    for model in self.args.models:
      folders = [self.folder(model, seed) for seed in self.args.seeds]
      mean = transfer_found.mean_matrix(
        [matrix.read(f / 'transfer' / 'matrix.csv') for f in folders]
      )
      where = found / f'{pathlib.Path(model).stem}, mean over seeds'
      mean.write(where / 'matrix.csv')
      mean.relative().write(where / 'relative.csv')
      for file in (
        'alike/layers.json',
        'alike/indicators.csv',
        'neurons/masked.json',
      ):
        one = found / f'{pathlib.Path(model).stem}, {folders[0].name}'
        one.mkdir(exist_ok=True)
        shutil.copyfile(folders[0] / file, one / pathlib.Path(file).name)
    page = self.out / 'report.html'
    files.write_text(page, report.page(found))
    return page


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  named = [name for names in TYPES.values() for name in names]
  add('--models', nargs='+', default=['mini'], help='each to the next')
  add('--tasks', nargs='+', default=named)
  add('--targets', nargs='+', help='of the speed-ups; default: the unseen ones')
  add('--seeds', nargs='+', type=int, default=[0, 1, 2])
  add('--steps', type=int, default=300, help='of every prompt')
  add('--batch_size', type=int, default=32, help='of every prompt')
  add('--length', type=int, default=20, help='rows of a prompt')
  add('--looks', type=int, default=20, help='evaluations of a run')
  add('--examples', type=int, default=500, help='rows a score is of, at most')
  add('--ratios', nargs='+', type=float, default=[0.05, 0.1, 0.2])
  add('--stack', choices=('encoder', 'decoder'), default='decoder')
  add('--indicator', default='ON', help='that says what is most alike')
  add('--projector_tasks', nargs='+', help='default: all but the targets')
  add('--projector_steps', type=int, help='by the task loss; default: --steps')
  add('--distance_steps', type=int, default=10_000, help='by distance')
  add('--distance_rate', type=float, default=1e-3)
  add('--out', default='runs/transfer_study')
  args = parser.parse_args(argv)
  if len(args.tasks) < 3:
    parser.error('--tasks: expected at least 3, an order of fewer says nothing')
  usual = [name for name in TARGETS if name in args.tasks]
  args.targets = args.targets or usual or args.tasks[:1]
  others = [name for name in args.tasks if name not in args.targets]
  args.projector_tasks = args.projector_tasks or others or args.tasks[::2]
  args.projector_steps = args.projector_steps or args.steps
  return args


def main(argv=None) -> None:
  args = arguments(argv)
  tuning.share_compiled(args.out)
  study = Study(args)
  rows = study.carry_out()
  page = study.show(rows)
  print(transfer_found.text(transfer_found.tables(rows)))
  print(page)


if __name__ == '__main__':
  main()
