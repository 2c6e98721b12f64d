"""Every method on the same tasks: parameters, accuracy, cost of a step.

    python -m launch.compare --model mini --seeds 0 1 2 \
      --tasks movie_sentiment gloss_supersense word_relation \
      --sources runs/pretrain/mini/prompts/6000 --factors 0.1 1 10

What a method file leaves open, `launch.blanks` fills in; one that asks for
saved prompts is left out without --sources. A method of several tasks trains
on all of them at once, any other on one a run. Test accuracy is that of the
last step. With several --factors, each multiplies LEARNING_RATE in a run of
the first seed on the first task, and the one that is best on its validation
split is taken for all; --searched names the methods that this is done for,
where it is not for all.

A step is timed beside one of plain prompt tuning, in turn and in one process,
over the same batch; the ratio is the median over the pairs. Memory is what
the compiler says a step needs at its peak.

Writes OUT/compare.json and OUT/compare.md. Every run is a line of
OUT/results.jsonl; the same command goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import statistics
import time
from typing import Any

import jax

from launch import blanks, results, tuning
from prompt_jax import ginfiles, params
from prompt_jax.session import Session, initial_state
from prompt_jax.tasks import local
from prompt_jax.training import sharding
from prompt_jax.training.loop import Interruption
from prompt_jax.training.step import Program, train_step

METRIC = 'accuracy'
TASKS = ('movie_sentiment', 'gloss_supersense', 'word_relation')
_WARM_UP = 2  # the first step touches its buffers for the first time


class Stepper:
  """A run whose steps are made one at a time, over one batch."""

  def __init__(self, run):
    session = Session(run, Interruption())
    self.trainable = params.count(session.trainable)
    self.total = self.trainable + params.count(session.frozen)
    self._frozen = session.frozen
    self._state = initial_state(run, session.trainable)
    self._batch = sharding.put_batch(run.mesh, run.dataset.batch(0))
    step = train_step(
      run.model, run.optimizer, session.rates, run.schedule, loss=run.loss
    )
    self._program = Program('a step', step, donate_argnums=(0,))
    # now, while gin's references mean this run
    self._program.compiled(self._state, self._frozen, self._batch)

  def seconds(self) -> float:
    """Makes a step; it ends when its whole new state is there."""
    began = time.perf_counter()
    self._state, sums = self._program(self._state, self._frozen, self._batch)
    jax.block_until_ready((self._state, sums))
    return time.perf_counter() - began

  def peak_bytes(self) -> float:
    """What the compiler says that a step needs."""
    return self._program.cost()['peak_bytes']


class Comparison:
  """What the command line asks for.

  Args:
    args: see `arguments`.
  """

  def __init__(self, args: argparse.Namespace):
    self.args, self.out = args, pathlib.Path(args.out)
    self.tasks = [local.shipped(name) for name in args.tasks]
    self.same = {
      'model': pathlib.Path(args.model).stem,
      'weights': tuning.weights(args.model),
      'length': args.length,
      'batch_size': args.batch_size,
      'sources': args.sources,
    }
    readable = [
      method
      for method in args.methods or ginfiles.available('methods')
      if args.sources or not blanks.reads_sources(method)
    ]
    self.methods = readable

  def groups(self, method: str) -> list[list[local.FileTask]]:
    """The tasks of each run of a method."""
    together = 'NUM_TASKS' in blanks.macros(method)
    return [self.tasks] if together else [[task] for task in self.tasks]

  def cells(
    self, method: str, groups, factors, seeds, what: str
  ) -> list[results.Row]:
    """What tells the runs of a method from one another."""
    return [
      {
        **self.same,
        'what': what,
        'method': method,
        'tasks': [task.name for task in group],
        'steps': self.args.steps,
        'factor': factor,
        'seed': seed,
      }
      for seed in seeds
      for factor in factors
      for group in groups
    ]

  def configured(self, cell: results.Row, folder: pathlib.Path, split: str):
    """(tasks, arguments of `tuning.configured`) of a cell."""
    tasks = [local.shipped(name) for name in cell['tasks']]
    method, args = cell['method'], self.args
    settings = {
      'TRAIN_STEPS': args.steps,
      'BATCH_SIZE': args.batch_size,
      'EVAL_PERIOD': 0,
      'RANDOM_SEED': cell.get('seed', 0),
      **blanks.settings(
        method, args.model, tasks, args.length, args.sources, args.tasks
      ),
    }
    if cell.get('factor', 1.0) != 1.0:
      rate = blanks.macros(method)['LEARNING_RATE']
      settings['LEARNING_RATE'] = cell['factor'] * rate
    given = (args.model, tasks, folder, settings)
    return given, {'method': method, 'split': split}

  def _folder(self, cell: results.Row) -> pathlib.Path:
    name = pathlib.Path(cell['method']).stem
    parts = [*cell['tasks'], str(cell['factor']), str(cell['seed'])]
    inner = '_'.join([*parts, str(cell['steps']), cell['weights']])
    return self.out / cell['what'] / cell['model'] / name / inner

  def tuned(self, cell: results.Row) -> results.Row:
    """Trains one cell: its accuracies {task: percent}."""
    split = 'test' if cell['what'] == 'test' else 'validation'
    given, options = self.configured(cell, self._folder(cell), split)
    tuned = tuning.tune(*given, **options)
    return {
      METRIC: {name: tuned.metrics(name)[METRIC] for name in cell['tasks']},
      'seconds': round(tuned.summary['train_seconds'], 1),
      'base_digest': tuned.summary['base_digest'],
    }

  def factor(self, method: str, kept: results.Results) -> float:
    """The factor of the rate that is best on the validation split."""
    args = self.args
    if len(args.factors) == 1:
      return args.factors[0]
    if args.searched and method not in args.searched:
      return 1.0
    first = self.groups(method)[:1]
    seeds = args.seeds[:1]
    cells = self.cells(method, first, args.factors, seeds, 'validation')
    by_factor: dict[float, list[float]] = {}
    for row in kept.filled(cells, self.tuned, _said):
      by_factor.setdefault(row['factor'], []).extend(row[METRIC].values())
    # equal ones: the first, as the command line orders them
    return max(by_factor, key=lambda each: statistics.fmean(by_factor[each]))

  def cost(self, cell: results.Row) -> results.Row:
    """Times the steps of a method in turn with those of prompt tuning."""
    own, plain = [
      self._stepper({**cell, 'method': method})
      for method in (cell['method'], tuning.PROMPT)
    ]
    pairs = [
      (plain.seconds(), own.seconds())
      for _ in range(_WARM_UP + self.args.repeats)
    ][_WARM_UP:]
    ratios = sorted(mine / other for other, mine in pairs)
    return {
      'ratio': statistics.median(ratios),
      'ratios': [ratios[0], ratios[-1]],
      'step_seconds': statistics.median(mine for _, mine in pairs),
      'peak_bytes': own.peak_bytes(),
      'peak_bytes_of_prompt': plain.peak_bytes(),
      'trainable': own.trainable,
      'total': own.total,
    }

  def _stepper(self, cell: results.Row) -> Stepper:
    name = pathlib.Path(cell['method']).stem
    given, options = self.configured(cell, self.out / 'cost' / name, 'test')
    return Stepper(tuning.configured(*given, **options))

  def carry_out(self, kept: results.Results) -> dict[str, Any]:
    """{method: what was found}."""
    found = {}
    for method in self.methods:
      factor = self.factor(method, kept)
      groups = self.groups(method)
      cells = self.cells(method, groups, [factor], self.args.seeds, 'test')
      rows = kept.filled(cells, self.tuned, _said)
      cell = {
        **self.same,
        'what': 'cost',
        'method': method,
        'tasks': [task.name for task in groups[0]],
        'repeats': self.args.repeats,
      }
      (cost,) = kept.filled([cell], self.cost, _said_of_cost)
      each = {
        task.name: [
          row[METRIC][task.name] for row in rows if task.name in row[METRIC]
        ]
        for task in self.tasks
      }
      figures = ('trainable', 'total', 'ratio', 'ratios', 'peak_bytes')
      found[pathlib.Path(method).stem] = {
        'factor': factor,
        'tasks_at_once': len(cell['tasks']),
        METRIC: each,
        **{name: cost[name] for name in figures},
      }
    return found


def _said(row: results.Row) -> str:
  name = pathlib.Path(row['method']).stem
  each = ', '.join(f'{task} {x:.1f}' for task, x in row[METRIC].items())
  return f'{name} x{row["factor"]:g} seed {row["seed"]} {row["what"]}: {each}'


def _said_of_cost(row: results.Row) -> str:
  name = pathlib.Path(row['method']).stem
  return f'{name}: {row["ratio"]:.2f} of a step of prompt tuning'


def table(found: dict[str, Any], tasks: Sequence[str]) -> str:
  """Markdown: a row a method, the most accurate first."""
  mean = lambda row: statistics.fmean(x for t in tasks for x in row[METRIC][t])
  lines = []
  for name, row in sorted(found.items(), key=lambda each: -mean(each[1])):
    low, high = row['ratios']
    lines.append(
      [
        f'`{name}`',
        f'{row["trainable"]:,} ({row["trainable"] / row["total"]:.2%})',
        row['tasks_at_once'],
        *(results.shown(row[METRIC][task]) for task in tasks),
        f'{mean(row):.1f}',
        f'{row["factor"]:g}',
        f'{row["ratio"]:.2f} ({low:.2f} to {high:.2f})',
        f'{row["peak_bytes"] / 2**20:,.0f}',
      ]
    )
  header = ['test accuracy, %', 'trainable', 'tasks a run']
  header += [f'`{task}`' for task in tasks]
  header += ['mean', 'rate x', 'step / prompt', 'peak MiB']
  return results.markdown(header, lines)


def arguments(argv=None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--model', default='mini')
  add('--tasks', nargs='+', default=list(TASKS))
  add('--methods', nargs='+', help='gin files; all that come along if not')
  add('--seeds', nargs='+', type=int, default=[0, 1, 2])
  add('--steps', type=int, default=3000)
  add('--length', type=int, default=20, help='rows of a prompt')
  add('--batch_size', type=int, default=32)
  add('--factors', nargs='+', type=float, default=[1.0], help='of the rates')
  add('--searched', nargs='+', help='gin files that --factors are tried on')
  add('--sources', help='folder of saved prompts of other tasks')
  add('--repeats', type=int, default=20, help='pairs of steps that are timed')
  add('--out', default='runs/compare')
  return parser.parse_args(argv)


def main(argv=None) -> None:
  args = arguments(argv)
  out = pathlib.Path(args.out)
  tuning.share_compiled(out)
  kept = results.Results(out / 'results.jsonl')
  found = Comparison(args).carry_out(kept)
  written = table(found, args.tasks)
  (out / 'compare.json').write_text(json.dumps(found, indent=2) + '\n')
  (out / 'compare.md').write_text(written + '\n')
  print(written)


if __name__ == '__main__':
  main()
