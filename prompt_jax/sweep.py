"""Trains several prompts at once over one frozen base.

    prompt-jax sweep --gin_file=models/mini.gin --gin_file=methods/prompt.gin \
      --gin_file=runs/sweep.gin --gin.MODEL_DIR=runs/sweep \
      --gin.SWEEP_TASKS="['movie_sentiment']" --gin.SWEEP_SEEDS="[0, 1, 2]"

A prompt for each combination of SWEEP_TASKS, SWEEP_STARTS, SWEEP_RATES and
SWEEP_SEEDS, as `prompt-jax train` would train it: own data, optimizer state,
dropout, patience and best step. Only the base and the program are shared; on a
CPU there is one of each a core, see `lanes`.

MODEL_DIR/<task>-<start>-rate_<r>-seed_<n>/   a whole run (what was given)
MODEL_DIR/results.json, .csv, .md, .png       see `standings`

The same command goes on where it was interrupted, and one more value costs
the runs that it adds. TensorFlow is imported once the command is known.
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import io
import math
from typing import Any

from prompt_jax import standings
from prompt_jax.combinations import MACROS, Command, members
from prompt_jax.errors import UserError

_EXAMPLES = {
  'tasks': "distinct names, such as ['movie_sentiment']",
  'starts': 'distinct names of gin/prompts or of .npy files, such as '
  "['from_sampled_vocab', 'start.npy']",
  'rates': 'distinct numbers above 0, such as [0.1, 0.3]',
  'seeds': 'distinct whole numbers, 0 or more, such as [0, 1, 2]',
}
_FITS = {
  'tasks': lambda x: isinstance(x, str) and bool(x),
  'starts': lambda x: isinstance(x, str) and bool(x),
  'rates': lambda x: type(x) in (int, float) and x > 0,
  'seeds': lambda x: type(x) is int and x >= 0,
}


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What differs between the members of a sweep; None: nothing does.

  Args:
    seeds, rates, starts, tasks: values, a member for each combination.
    memory: gigabytes that the program may take; None: what is free.
    together: members of one vectorised pass, see `stacked`; None: one on a
      CPU, else all.
    devices: of a CPU, over which members go, see `lanes`; None: one a core.
  """

  seeds: Sequence[int] | None = None
  rates: Sequence[float] | None = None
  starts: Sequence[str] | None = None
  tasks: Sequence[str] | None = None
  memory: float | None = None
  together: int | None = None
  devices: int | None = None

  def __post_init__(self):
    for field, (macro, _) in MACROS.items():
      value = getattr(self, field)
      if value is None:
        continue
      listed = list(value) if isinstance(value, list | tuple) else []
      good = [x for x in listed if _FITS[field](x)]
      if not listed or len(good) < len(listed) or len({*good}) < len(listed):
        raise UserError(
          f'{macro} is {value!r}; expected a list of {_EXAMPLES[field]}: a '
          'prompt each. Leave it out to train with one value.'
        )
    if all(getattr(self, field) is None for field in MACROS):
      raise UserError(
        'The sweep has nothing to vary; expected at least one of '
        f'{", ".join(macro for macro, _ in MACROS.values())}. For a single '
        'prompt use `prompt-jax train`.'
      )
    if self.memory is not None and not self.memory > 0:
      raise UserError(
        f'SWEEP_MEMORY is {self.memory!r}; expected gigabytes, above 0, or '
        'None for what is free.'
      )
    for field, of in ('together', 'prompts'), ('devices', 'CPU devices'):
      value = getattr(self, field)
      if value is not None and (type(value) is not int or value < 1):
        raise UserError(
          f'SWEEP_{field.upper()} is {value!r}; expected a whole number of '
          f'{of}, at least 1, or None.'
        )

  @property
  def count(self) -> int:
    """How many prompts it describes."""
    return math.prod(len(getattr(self, field) or [None]) for field in MACROS)


def _open(made: Sequence, interruption) -> Any:
  """Opens the members' sessions over one base; that base {path: array}."""
  import numpy as np

  from prompt_jax.session import Session
  from prompt_jax.stages import Parts
  from prompt_jax.training import state as states

  frozen, first = None, None
  evaluators: dict[str, dict] = {}
  for each in made:
    known = evaluators.setdefault(each.about['task'], {})
    each.configure()
    # what trains is told once
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet if first else contextlib.nullcontext():
      session = Session(each.run, interruption, known)
    if first is None:
      first, frozen = session, session.frozen
      base = states.base_shapes(each.run.model).keys()
      if not base & frozen.keys():
        raise UserError(
          'The method trains every parameter of the base, so a sweep has '
          'nothing to share; expected one with a frozen base, such as '
          'methods/prompt.gin. Train such runs one by one.'
        )
    other = [
      path
      for path in frozen
      if path not in base
      and not np.array_equal(frozen[path], session.frozen[path])
    ]
    if other or session.digest != first.digest:
      raise UserError(
        f'{each.name} has another frozen {(other or ["base"])[0]} than '
        f'{made[0].name}; expected the same for all prompts of a sweep. Vary '
        'the seed or the start in sweeps of their own.'
      )
    session.frozen = frozen
    session.parts = Parts(each.run.model, frozen, each.run.staging)
    each.open(session, interruption, lambda text: print(text, flush=True))
  return frozen


def train_together(made: Sequence, sweep: Sweep) -> list[dict[str, Any]]:
  """Carries out the runs of all members, each from its newest checkpoint.

  Args:
    made: see `members`.
    sweep: memory, together and devices are read.
  Returns: a row for each, see `standings.row`.
  Raises: UserError if they cannot share a program.
  """
  from prompt_jax import cohort, lanes, stacked
  from prompt_jax.training.loop import Interruption

  with Interruption() as interruption:
    frozen = _open(made, interruption)
    active = [each for each in made if each.active]
    print(f'{len(made)} prompts, {len(active)} of them to train', flush=True)
    if active:
      mesh = active[0].run.mesh
      held = sum(leaf.nbytes for leaf in frozen.values())
      budget = cohort.memory(mesh.devices.flat[0], held)
      if sweep.memory is not None:
        budget = int(sweep.memory * 2**30)
      together = sweep.together or stacked.default_together(len(active))
      places = lanes.meshes(sweep.devices, active[0].run)
      for some in cohort.alike(active):  # one after the other
        lanes.run(
          lanes.planned(
            *(some, frozen, together, budget, interruption, print, places)
          ),
          interruption,
        )
        if interruption.requested:
          break
      made[0].session.check_frozen()
    for each in made:
      each.close()
  return [standings.row(each) for each in made]


def sweep_all(
  command: Command, dry_run: bool = False
) -> list[dict[str, Any]] | None:
  """Carries out the sweep that a command describes.

  Args:
    command: the gin files and bindings.
    dry_run: checks and names the members, and trains none.
  Returns: a row a member; None for a dry run.
  Raises: UserError for bad input, before anything is trained.
  """
  sweep = command.sweep()
  from prompt_jax import lanes

  lanes.ask(sweep.devices or sweep.count)
  folder = command.folder()
  made = members(command, sweep, folder)
  if dry_run:
    print('\n'.join(str(each.run.folder) for each in made))
    return None
  from prompt_jax import compile_cache

  compile_cache.keep()
  rows = train_together(made, sweep)
  metric = made[0].run.plan.best_metric
  order = standings.write(folder, rows, metric)
  drawn = standings.draw(folder, rows, metric)
  print(standings.table(order))
  print(drawn or folder / 'results.md', flush=True)
  if any(row['reason'] in (None, 'SIGTERM') for row in rows):
    print('SIGTERM: saved; run the same command to go on')
  return rows


def flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `prompt-jax sweep`."""
  add = parser.add_argument
  add('--gin_file', action='append', default=[], help='may be given often')
  add('--gin_bindings', action='append', default=[], help='or --gin.NAME=VALUE')
  add('--gin_search_paths', nargs='*', default=[], metavar='DIR')
  add('--dry_run', action='store_true', help='check, and name the prompts')


def run(args) -> list[str]:
  """Carries the command out; there is nothing left to print."""
  command = Command(args.gin_file, args.gin_bindings, args.gin_search_paths)
  sweep_all(command, args.dry_run)
  return []


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('sweep')
