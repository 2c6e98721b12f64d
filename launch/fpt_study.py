"""Progressive training on parts of a base, beside plain prompt tuning.

    python -m launch.fpt_study --model midi --seeds 0 1 2 \
      --tasks movie_sentiment gloss_supersense word_relation

Per task and seed, all from one start and in as many steps: by layers (LD), by
units of MLPs (FR), by both (CR), and plain; also plain tuning with as many
steps as each of them costs, the baseline they have to beat. Says the
difference of the test scores with its standard error, and what is saved: of
the products by formula, of the FLOPs as compiled, of the seconds.

Every run is a line of OUT/results.jsonl; the same command goes on where it
stopped. OUT/report.html shows the table, the stages and the curves.
Source: Huang et al. 2022 (FPT), section 4, table 2.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import json
import math
import pathlib
import shutil
import statistics
from typing import Any

import gin

from launch import results, tuning
from prompt_jax import files, ginfiles, neurons, report
from prompt_jax.tasks import local
from prompt_jax.transfer import speed

TASKS = ('movie_sentiment', 'gloss_supersense', 'word_relation')
METRIC = 'accuracy'
PLAIN = 'plain'
RUNS = {  # gin files of the paper's three schedules
  'LD': 'runs/progressive_ld.gin',
  'FR': 'runs/progressive_fr.gin',
  'CR': 'runs/progressive_cr.gin',
}
_SAVED = ('products', 'flops', 'seconds')


class Study:
  """The runs of a study.

  Args: args: those of the command line.
  """

  def __init__(self, args: argparse.Namespace):
    self.args, self.out = args, pathlib.Path(args.out)
    self.tasks = {name: local.shipped(name) for name in args.tasks}
    # of all tasks, so that their runs share what is compiled
    self.lengths = tuning.lengths(*self.tasks.values())
    self.kept = results.Results(self.out / 'results.jsonl')

  def cells(self) -> list[results.Row]:
    """All runs, plain ones after those that they stop like."""
    args = self.args
    same = {
      'model': args.model,
      'base': tuning.weights(args.model),
      'steps': args.steps,
      'decoder': args.cut_decoder,
      'length': args.length,
      'batch_size': args.batch_size,
      'schedule': args.schedule,
      'looks': args.looks,
      'shown': args.shown,
    }
    of = [(run, False) for run in args.runs]
    of += [(run, True) for run in args.runs] + [(PLAIN, False)]
    return [
      {**same, 'task': task, 'seed': seed, 'run': run, 'stopped': stopped}
      for task in self.tasks
      for seed in args.seeds
      for run, stopped in of
    ]

  def scores(self, name: str) -> str:
    """The scores of a base's units on a task's training split; made once."""
    model = pathlib.Path(self.args.model).stem
    weights = tuning.weights(self.args.model)
    folder = self.out / 'scores' / f'{model}_{weights}_{self.args.length}'
    file = folder / f'{name}.npz'
    if not file.is_file():
      local.register(self.tasks[name])
      values = {
        'MIXTURE_OR_TASK_NAME': name,
        'TASK_FEATURE_LENGTHS': self.lengths,
        'SCORES_DIR': str(folder),
        'UNTRAINED_ROWS': self.args.length,  # the paper's scores are so made
      }
      given = [f'{key}={value}' for key, value in values.items()]
      model = tuning.model_file(self.args.model)
      ginfiles.parse([model, 'runs/neurons.gin'], given)
      neurons.score(gin.get_configurable(neurons.Neurons)())
    return str(file)

  def trained(self, cell: results.Row) -> results.Row:
    """One run: its test score, what it saved, its curve."""
    steps, options = cell['steps'], {}
    settings: dict[str, Any] = {
      'TASK_FEATURE_LENGTHS': self.lengths,
      'LENGTH_BUCKETS': tuning.BUCKETS,
      'RANDOM_SEED': cell['seed'],
      'PROMPT_LENGTH': cell['length'],
      'BATCH_SIZE': cell['batch_size'],
      'SCHEDULE': cell['schedule'],
    }
    if cell['stopped']:
      steps = self._as_dear(cell)
    elif cell['run'] != PLAIN:
      options['kind'] = RUNS[cell['run']]
      settings['STAGE_DECODER'] = cell['decoder']
      settings['SCORES_FILE'] = self.scores(cell['task'])
    settings |= {'TRAIN_STEPS': steps, 'EVAL_STEPS': cell['shown']}
    settings['EVAL_PERIOD'] = max(1, cell['steps'] // cell['looks'])
    task, folder = self.tasks[cell['task']], self.folder(cell, steps)
    earlier = self._seconds(folder)
    tuned = tuning.tune(cell['model'], task, folder, settings, **options)
    tested = folder / f'test_{steps}'
    test = tuning.evaluate(cell['model'], task, tested, tuned.prompt())
    account = json.loads((folder / 'stages.json').read_text())
    return {
      'test': test[METRIC],
      'made': steps,
      'folder': folder.name,
      'seconds': round(earlier + tuned.summary['train_seconds'], 1),
      'saved': account['saved'],
      'curve': sorted(speed.curve(folder, METRIC).items()),
    }

  def _as_dear(self, cell: results.Row) -> int:
    """The steps that plain tuning makes for the products of another run."""
    (row,) = self.kept.where(**{**cell, 'stopped': False})[-1:]
    return max(1, round(cell['steps'] * (1 - row['saved']['products'])))

  def _seconds(self, folder: pathlib.Path) -> float:
    """What the runs took that a run in this folder goes on from."""
    rows = self.kept.where(folder=folder.name)
    return max((row['seconds'] for row in rows), default=0.0)

  def folder(self, cell: results.Row, steps: int) -> pathlib.Path:
    """MODEL_DIR of a run.

    Plain runs of one task and seed that differ in their steps alone are one
    run, where it has not made too many: at a constant rate, the first steps
    of a longer run are those of a shorter one.
    """
    plain = cell['stopped'] or cell['run'] == PLAIN
    shared = self._named(cell, PLAIN)
    if plain and cell['schedule'] == 'constant' and _made(shared) <= steps:
      return shared
    how = f'{PLAIN}_as_{cell["run"]}' if cell['stopped'] else cell['run']
    return self._named(cell, how)

  def _named(self, cell: results.Row, how: str) -> pathlib.Path:
    parts = (pathlib.Path(cell['model']).stem, cell['base'], cell['task'])
    parts += (cell['seed'], how, cell['steps'], cell['length'])
    parts += (cell['batch_size'], cell['schedule'])
    parts += (cell['looks'], cell['shown'])
    parts += ('decoder',) if cell['decoder'] else ()
    return self.out / 'runs' / '_'.join(map(str, parts))

  def carry_out(self) -> list[results.Row]:
    """The rows of all runs; those that are missing are made.

    Runs on parts come first, then the plain ones from the shortest on.
    """
    told = lambda row: (
      f'{row["task"]} seed {row["seed"]} {row["run"]}'
      f'{" (plain, as dear)" if row["stopped"] else ""}: {row["test"]:.1f}'
    )
    cells = self.cells()
    parts = [c for c in cells if c['run'] != PLAIN and not c['stopped']]
    rows = self.kept.filled(parts, self.trained, told)
    plain = [cell for cell in cells if cell not in parts]
    made = lambda cell: (
      self._as_dear(cell) if cell['stopped'] else cell['steps']
    )
    plain.sort(key=made)
    return rows + self.kept.filled(plain, self.trained, told)

  def show(self, rows: Sequence[results.Row]) -> pathlib.Path:
    """Writes found/ and the report of it."""
    found = self.out / 'found'
    shutil.rmtree(found, ignore_errors=True)
    files.write_json(
      found / 'tables.json', {'Progressive training': table(rows)}
    )
    files.write_json(found / 'curves.json', curves(rows))
    for row in rows:
      if (
        row['run'] != PLAIN
        and not row['stopped']
        and row['seed'] == rows[0]['seed']
      ):
        where = found / f'{row["task"]}, {row["run"]}'
        stages = self.out / 'runs' / row['folder'] / 'stages.json'
        if stages.is_file():  # not where rows of another machine are shown
          where.mkdir(parents=True, exist_ok=True)
          shutil.copyfile(stages, where / 'stages.json')
    page = self.out / 'report.html'
    files.write_text(page, report.page(found))
    return page


def _made(folder: pathlib.Path) -> int:
  """The step that a run's last prompt is of, 0 where there is none."""
  steps = (each.name for each in (folder / 'prompts').glob('*'))
  return max((int(name) for name in steps if name.isdigit()), default=0)


def difference(one: Sequence[float], other: Sequence[float]) -> str:
  """'-0.4 ± 0.2': the mean difference of pairs and its standard error."""
  mean, spread = results.mean_spread(
    a - b for a, b in zip(one, other, strict=True)
  )
  if len(one) < 2:
    return f'{mean:+.1f}'
  return f'{mean:+.1f} ± {spread / math.sqrt(len(one)):.1f}'


def _tests(rows: Iterable[results.Row]) -> dict[tuple, float]:
  return {(row['task'], row['seed']): row['test'] for row in rows}


def _by_seed(tests: Mapping[tuple, float]) -> list[float]:
  """The mean over tasks of each seed."""
  seeds: dict[int, list[float]] = {}
  for (_, seed), score in tests.items():
    seeds.setdefault(seed, []).append(score)
  return [statistics.fmean(scores) for scores in seeds.values()]


def _runs(rows: Iterable[results.Row]) -> list[str]:
  """What was run, plain first."""
  found = {row['run'] for row in rows}
  return [run for run in (PLAIN, *RUNS) if run in found]


def _percent(rows: Iterable[results.Row], key: str) -> str:
  """The mean of what is saved, in percent; '-' where it is not known."""
  known = [100 * s for s in (r['saved'][key] for r in rows) if s is not None]
  return results.shown(known)


def table(rows: Sequence[results.Row]) -> dict[str, Any]:
  """A line a task and run, then the means of all tasks."""
  lines = []
  names = list(dict.fromkeys(row['task'] for row in rows))
  for name in [*names, *(['all tasks'] if len(names) > 1 else [])]:
    own = [row for row in rows if name in ('all tasks', row['task'])]
    for run in _runs(own):
      here = [r for r in own if r['run'] == run and not r['stopped']]
      plain = _tests(r for r in own if r['run'] == PLAIN)
      dear = _tests(r for r in own if r['run'] == run and r['stopped'])
      tests = _tests(here)
      pairs = lambda other, tests=tests: (
        difference([tests[k] for k in other], list(other.values()))
        if other
        else '-'
      )
      lines.append(
        [
          f'{name}, {run}',
          results.shown(_by_seed(tests)),
          '-' if run == PLAIN else pairs(plain),
          pairs(dear),
          *('-' if run == PLAIN else _percent(here, key) for key in _SAVED),
          results.shown(row['seconds'] for row in here),
        ]
      )
  head = ['test accuracy, %', 'score', 'minus plain', 'minus plain as dear']
  head += [f'{key} saved, %' for key in _SAVED]
  notes = [
    'Score: mean and standard deviation over seeds, of all tasks those of '
    'their mean. Differences: mean over pairs of one task and seed, and its '
    'standard error. Products: by formula, forward, of inputs of full length; '
    'FLOPs: as the compiler counts a step; seconds: against the pace of the '
    'whole model in the same run, without compiling. As dear: plain tuning '
    'that stops at the products of the run it is held against.'
  ]
  return {'head': [*head, 'seconds'], 'rows': lines, 'notes': notes}


def curves(rows: Sequence[results.Row]) -> dict[str, dict[str, Any]]:
  """{heading: lines over steps} of the first seed."""
  found: dict[str, dict[str, Any]] = {}
  shown = [r for r in rows if r['seed'] == rows[0]['seed']]
  for run in _runs(shown):
    for row in (r for r in shown if r['run'] == run and not r['stopped']):
      heading = f'{row["task"]}: validation accuracy, percent'
      each = found.setdefault(heading, {'across': 'step', 'lines': {}})
      each['lines'][row['run']] = row['curve']
  return found


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--model', default='mini')
  add('--tasks', nargs='+', default=list(TASKS))
  add('--seeds', nargs='+', type=int, default=[0, 1, 2])
  add('--runs', nargs='+', choices=RUNS, default=list(RUNS))
  add('--steps', type=int, default=3000, help='of every run')
  add('--length', type=int, default=20, help='rows of a prompt')
  add('--batch_size', type=int, default=32)
  add('--looks', type=int, default=10, help='evaluations in --steps')
  add('--shown', type=int, default=8, help='batches of an evaluation')
  add(
    '--schedule',
    default='constant',
    help="of the rate; the paper's. One that falls starves the last stage",
  )
  add(
    '--cut_decoder',
    action='store_true',
    help='cut it too; the paper does not where targets are short',
  )
  add('--out', default='runs/fpt_study')
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  tuning.share_compiled(args.out)
  study = Study(args)
  rows = study.carry_out()
  page = study.show(rows)
  found = table(rows)
  print(results.markdown(found['head'], found['rows']))
  print(page)


if __name__ == '__main__':
  main()
