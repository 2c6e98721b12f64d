"""Several runs of one configuration that differ in their seed alone.

    prompt-jax train --gin_file=... --gin.MODEL_DIR=runs/mine --seeds 0 1 2

MODEL_DIR/seed_<n>/    a whole run, as `prompt-jax train` leaves it
MODEL_DIR/seeds.json   every metric: mean, sample standard deviation, each
MODEL_DIR/seeds.md     the same as a table

RANDOM_SEED is the order of the data, the initial values and dropout; which
examples SHOTS draws is the same for all. They run one after the other in this
process, which reads TensorFlow and compiles once. The same command goes on
where it was interrupted, and a seed more costs one run.
"""

from collections.abc import Mapping, Sequence
import copy
import json
import pathlib
import statistics
from typing import Any

import gin
import jax

from prompt_jax import compile_cache, files, train
from prompt_jax.errors import UserError
from prompt_jax.session import Shared


def _macro(name: str) -> str:
  return f'{name}/gin.macro.value'


def _value(name: str) -> Any:
  """What gin's configuration binds to a macro; None for nothing."""
  try:
    return copy.deepcopy(gin.query_parameter(_macro(name)))
  except ValueError:
    return None


def _bind(values: Mapping[str, Any]) -> None:
  for name, value in values.items():
    gin.bind_parameter(_macro(name), value)


def asked() -> list[int] | None:
  """SEEDS of gin's configuration; None for a single run.

  Raises: UserError unless they are distinct whole numbers.
  """
  seeds = _value('SEEDS')
  if seeds is None:
    return None
  listed = list(seeds) if isinstance(seeds, list | tuple) else []
  numbers = [s for s in listed if type(s) is int and s >= 0]
  if not listed or len(set(numbers)) < len(listed):
    raise UserError(
      f'SEEDS is {seeds!r}; expected a list of distinct whole numbers, 0 or '
      'more, a run each. Give --seeds 0 1 2, or --gin.RANDOM_SEED for one run.'
    )
  return listed


def _configured(seed: int, folder: pathlib.Path) -> train.Run:
  """The run of gin's configuration, with this seed and this folder."""
  _bind({'RANDOM_SEED': seed, 'MODEL_DIR': str(folder), 'SEEDS': None})
  run = gin.get_configurable(train.Run)()
  if (run.seed, run.folder) != (seed, folder):
    raise UserError(
      f'SEEDS asks for seed {seed} in {folder}, but the run has seed '
      f'{run.seed} and is in {run.folder}; expected both to come from the '
      'macros RANDOM_SEED and MODEL_DIR. Leave train.Run.seed and '
      'train.Run.model_dir as runs/train.gin binds them.'
    )
  return run


def train_each(seeds: Sequence[int]) -> dict[str, Any]:
  """Carries out the run that gin describes once for every seed.

  Args:
    seeds: values of RANDOM_SEED; MODEL_DIR gets a folder for each.
  Returns: what seeds.json holds: {'seeds', 'steps', 'reasons', 'metrics':
    {name: {'mean', 'std', 'each'}}}, lists in the order of the seeds. The
    standard deviation is that of a sample (n - 1), None for a single seed.
    Steps are the best by BEST_METRIC, without it the last.
  Raises: UserError for bad input, before the first run.
  """
  before = {name: _value(name) for name in ('RANDOM_SEED', 'MODEL_DIR')}
  if not isinstance(before['MODEL_DIR'], str):
    raise UserError(
      'SEEDS asks for a folder a seed below MODEL_DIR, which is not given; '
      'expected --gin.MODEL_DIR=... in place of train.Run.model_dir.'
    )
  folder = pathlib.Path(before['MODEL_DIR']).expanduser()
  compile_cache.keep()
  shared, found = Shared(), {}
  try:
    for seed in seeds:
      run = _configured(seed, folder / f'seed_{seed}')
      print(f'seed {seed} in {run.folder}', flush=True)
      summary = train.train(run, shared)
      if summary['reason'] == 'SIGTERM':
        left = list(seeds)[len(found) :]
        print(f'SIGTERM: the same command goes on with the seeds {left}')
        return summarised(found)
      found[seed] = _found(run, summary)
      if jax.process_index() == 0:  # those so far, lest a later one fail
        _write(folder, summarised(found))
  finally:
    _bind({**before, 'SEEDS': list(seeds)})
  print(f'{table(summarised(found))}\n{folder / "seeds.json"}', flush=True)
  return summarised(found)


def _found(run: train.Run, summary: Mapping[str, Any]) -> dict[str, Any]:
  """{step, reason, metrics} of a finished run, from what it has written."""
  best = summary['best_step']
  step = summary['step'] if best is None else best
  metrics = {}
  file = run.folder / 'metrics.jsonl'
  # only the first of several processes has it for certain
  lines = file.read_text().splitlines() if file.is_file() else ()
  for point in map(json.loads, lines):
    if (point.pop('group'), point.pop('step')) == ('eval', step):
      metrics = point
      metrics.pop('seconds')
  return {'step': step, 'reason': summary['reason'], 'metrics': metrics}


def summarised(found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
  """What seeds.json holds.

  Args:
    found: {seed: {'step', 'reason', 'metrics': {name: value}}}.
  Returns: see `train_each`; metrics that every seed has.
  """
  runs = list(found.values())
  names = runs[0]['metrics'] if runs else ()
  metrics = {}
  for name in names:
    if all(name in run['metrics'] for run in runs):
      each = [run['metrics'][name] for run in runs]
      std = statistics.stdev(each) if len(each) > 1 else None
      metrics[name] = {'mean': statistics.fmean(each), 'std': std, 'each': each}
  return {
    'seeds': list(found),
    'steps': [run['step'] for run in runs],
    'reasons': [run['reason'] for run in runs],
    'metrics': metrics,
  }


def table(summary: Mapping[str, Any]) -> str:
  """The summary in Markdown, a row a metric."""

  def row(*cells):
    return '| ' + ' | '.join(cells) + ' |'

  seeds = [f'seed {seed}' for seed in summary['seeds']]
  lines = [
    row('metric', 'mean', 'standard deviation', *seeds),
    row('---', *['---:'] * (2 + len(seeds))),
  ]
  for name, found in summary['metrics'].items():
    std = '' if found['std'] is None else f'{found["std"]:.2f}'
    each = [f'{value:.2f}' for value in found['each']]
    lines.append(row(name, f'{found["mean"]:.2f}', std, *each))
  lines.append(row('at step', '', '', *map(str, summary['steps'])))
  return '\n'.join(lines)


def _write(folder: pathlib.Path, summary: Mapping[str, Any]) -> None:
  files.write_json(folder / 'seeds.json', summary)
  files.write_text(folder / 'seeds.md', table(summary) + '\n')
