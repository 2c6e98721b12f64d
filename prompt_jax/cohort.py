"""A cohort: members whose updates one program makes.

A turn is an update of the member that is furthest behind and of all whose next
batch has the same length. So members need not be at the same step: one that
another life brought further just stops earlier.
"""

import collections
from collections.abc import Callable, Sequence
import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np

from prompt_jax import batches, params, stacked, summary
from prompt_jax.ledger import Ledger
from prompt_jax.member import Clock, Member
from prompt_jax.stages import shapes_of
from prompt_jax.training import sharding
from prompt_jax.training.loop import Interruption
from prompt_jax.training.program import Program
from prompt_jax.training.progress import Progress

gigabytes = lambda count: f'{count / 2**30:.2f} GB'
_SHARE = 0.8  # of the free memory; the rest is for evaluation and the data


def memory(device, held: int = 0) -> int:
  """Bytes that a program may take on a device.

  Args:
    device: the device; a CPU has the memory of the machine.
    held: bytes of its arguments that are there already.
  """
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    return int(_SHARE * stats['bytes_limit'])
  pages = os.sysconf('SC_PHYS_PAGES')
  try:
    with open('/proc/meminfo', encoding='ascii') as file:
      rows = dict(line.split(':') for line in file)
    free = int(rows['MemAvailable'].split()[0]) * 1024
  except (OSError, KeyError):
    free = pages * os.sysconf('SC_PAGE_SIZE')
  return int(_SHARE * free) + held


class Cohort:
  """Members that train in one program.

  Args:
    members: all active, opened, of one model and one base; `alike`.
    frozen: {path: array}, the base.
    together: members of one vectorised pass.
    interruption: ends it between turns.
    mesh: where it trains; None is where its members are.
  Attributes:
    program: the stacked step, see `prepare`.
    clock: the seconds of its turns.
  """

  def __init__(
    self,
    members: Sequence[Member],
    frozen,
    together: int,
    interruption: Interruption,
    mesh: Mesh | None = None,
  ):
    self.members, self._run = list(members), members[0].run
    self._interruption = interruption
    self.together, self.program = min(together, len(members)), None
    self.clock, self._made = Clock(), [0] * len(members)
    self._mesh = mesh or self._run.mesh
    self._whole = sharding.replicated(self._mesh)
    self._frozen = frozen if mesh is None else self._there(frozen)

  def _there(self, frozen):
    """The base as it lies on the members' mesh, on that of the cohort."""
    there = lambda x: NamedSharding(self._mesh, x.sharding.spec)
    return jax.tree.map(lambda x: jax.device_put(x, there(x)), frozen)

  def _put(self, tree):
    return jax.device_put(tree, self._whole)

  def _start(self):
    """(state, rates, active): the arguments before the first turn."""
    state = self._put(stacked.stack([m.state for m in self.members]))
    rates = {
      path: np.asarray([m.session.rates[path] for m in self.members], 'f4')
      for path in self.members[0].session.rates
    }
    return state, self._put(rates), self._mask(range(len(self.members)))

  def _mask(self, who):
    mask = np.zeros(len(self.members), bool)
    mask[list(who)] = True
    return self._put(mask)

  def _state_of(self, state, i: int):
    """The state of one member, where its run is."""
    whole = sharding.replicated(self._run.mesh)
    return jax.device_put(stacked.member(state, i), whole)

  def prepare(self) -> dict[str, float]:
    """Compiles the step; its figures, see `Program.cost`.

    `shared_bytes` are those that do not depend on the number of members.
    """
    state, rates, mask = self._start()
    self.program = stacked.program(self._run, self.together, self._mesh)
    longest = self._batch_like(max(self._lengths()))
    self.program.compiled(state, rates, mask, self._frozen, longest)
    cost = self.program.cost()
    cost['shared_bytes'] = sum(x.nbytes for x in self._frozen.values())
    if self.together < len(self.members):
      cost['shared_bytes'] += cost['temp_bytes']
    return cost

  def _lengths(self) -> set[int]:
    """Input lengths of all batches to come."""
    return {
      length
      for m in self.members
      for length in m.run.dataset.shapes(m.number, m.run.plan.train_steps)
    }

  def _batch_like(self, length: int):
    """Shapes of a stacked batch of that many input tokens."""
    first = dict(next(self._run.dataset.batches(self.members[0].number)))
    tokens = first['encoder_input_tokens']
    first['encoder_input_tokens'] = np.zeros((len(tokens), length), np.int32)
    rows, count = stacked.rows(self._mesh), len(self.members)
    return {
      name: jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=rows)
      for name, x in first.items()
    }

  def run(self, progress: Progress) -> None:
    """Turns until every member has stopped, or SIGTERM."""
    if self.program is None:
      self.prepare()
    for each in self.members:
      each.begin()
    ledgers = [Ledger(m.run, m.session.parts, m.number) for m in self.members]
    state, rates, mask = self._start()
    args = shapes_of((state, rates, mask, self._frozen))
    for each in self._lengths():
      self.program.plan(*args, self._batch_like(each))
    coming = batches.prefetch(self._feed())
    pending: collections.deque = collections.deque()
    try:
      for planned, batch in coming:
        active = [i for i, m in enumerate(self.members) if m.active]
        if not active:
          break
        if self._interruption.requested:
          self._settle(pending, state)
          for i in (i for i in active if self.members[i].active):
            self.members[i].interrupt(self._state_of(state, i))
          break
        now = [i for i in planned if i in active]
        if not now:
          continue
        state, sums = self._turn(state, rates, self._mask(now), batch)
        for i in now:
          self.members[i].number += 1
          self._made[i] += 1
        pending.append(([(i, self.members[i].number) for i in now], sums))
        due = [i for i in now if self.members[i].due]
        self._settle(pending, state, keep=0 if due else 1)
        self._turned(due, state, progress)
      self._settle(pending, state)
    finally:
      coming.close()
      self.program.close()
    self._leave(state, ledgers)

  def _turn(self, state, rates, mask, batch):
    args = (state, rates, mask, self._frozen, batch)
    if not self.program.ready(*args):
      jax.block_until_ready(state.step)
      self.clock.stand()
      self.program.compiled(*args)
    self.clock.go()
    return self.program(*args)

  def _turned(self, due: Sequence[int], state, progress: Progress) -> None:
    """What members have to do after this turn."""
    shown = []
    for i in due:
      each = self.members[i]
      if each.active:
        metrics = each.turn(self._state_of(state, i))
        shown += [metrics] if metrics else []
    if shown:
      means = {
        k: float(np.mean([m[k] for m in shown])) for k in ('loss', 'accuracy')
      }
      pace = sum(m['seqs_per_second'] for m in shown)
      number = max(self.members[i].number for i in due)
      progress.show(number, {**means, 'seqs_per_second': pace})

  def _settle(self, pending, state, keep: int = 0) -> None:
    """Gives members the sums of their updates; stops the clock for `keep` 0."""
    while len(pending) > keep:
      who, sums = pending.popleft()
      sums = jax.device_get(sums)
      for i, number in who:
        each = self.members[i]
        if each.active:
          each.take(number, stacked.member(sums, i))
    if not keep:
      jax.block_until_ready(state.step)
      self.clock.stand()

  def _feed(self):
    """(who, batch) of every turn; who is not in it has a batch all the same.

    As if none stopped before its last step: what depends on the data alone
    can be made ahead.
    """
    feeds = [m.run.dataset.batches(m.number) for m in self.members]
    numbers = [m.number for m in self.members]
    ends = [m.run.plan.train_steps for m in self.members]
    held: list[Any] = [None] * len(feeds)
    while left := [i for i, end in enumerate(ends) if numbers[i] < end]:
      for i in left:
        if held[i] is None:
          held[i] = _mine(next(feeds[i]))
      last = min(left, key=lambda i: numbers[i])
      size = lambda i: held[i]['encoder_input_tokens'].shape
      who = [i for i in left if size(i) == size(last)]
      rows = [held[i if i in who else last] for i in range(len(self.members))]
      for i in who:
        numbers[i], held[i] = numbers[i] + 1, None
      yield who, stacked.put(self._mesh, rows)

  def _leave(self, state, ledgers) -> None:
    """The states and accounts of members that have stopped."""
    total = max(sum(self._made), 1)
    # a loop counts as one turn of it, and as many members as are in one
    flops = self.program.cost()['flops'] / self.together
    for i, (each, ledger) in enumerate(zip(self.members, ledgers, strict=True)):
      each.state = self._state_of(state, i)
      spent = {
        'timed_steps': self._made[i],
        'seconds': self.clock.seconds * self._made[i] / total,
        'flops': flops,
      }
      ledger.settle({0: spent}, each.number)
      found = {
        'step': each.number,
        'steps': self._made[i],
        'reason': each.reason,
        'best_step': each.best.step,
        'best': each.best.value,
        'train_seconds': spent['seconds'],
        'examples_per_second': ledger.pace() * each.run.dataset.batch_size,
        'compile_seconds': self.program.seconds,
        'cost': self.program.cost(),
        'trainable': params.count(each.state.trainable),
        'total': params.count(each.state.trainable)
        + params.count(self._frozen),
        'base_digest': each.session.digest,
        'activation_dtype': each.run.model.config.activation_dtype,
      }
      summary.write(each.run, {**ledger.now, **found})


def _mine(batch):
  """The rows of this process."""
  return batches.rows(batch, jax.process_index(), jax.process_count())


def alike(members: Sequence[Member]) -> list[list[Member]]:
  """Members whose targets are equally long; others need programs of their own.

  Padding would do but for dropout, whose draws depend on the length.
  """
  found: dict[int, list[Member]] = {}
  for each in members:
    found.setdefault(each.run.dataset.lengths['targets'][-1], []).append(each)
  return list(found.values())


def arranged(
  members: Sequence[Member],
  frozen,
  together: int,
  budget: int,
  interruption: Interruption,
  say: Callable[[str], None],
) -> list[Cohort]:
  """Cohorts that fit into memory: one of all members, if it can be.

  Fewer are taken together first, then fewer in a program.

  Args:
    members, frozen, together, interruption: see `Cohort`.
    budget: bytes of a program.
    say: prints a line.
  """
  count, shapes = len(members), {}

  def made(group, width):
    cohort = Cohort(group, frozen, width, interruption)
    known: Program | None = shapes.get((len(group), cohort.together))
    if known is None:
      cost = cohort.prepare()
      shapes[len(group), cohort.together] = cohort.program
    else:
      cohort.program, cost = known, {'peak_bytes': 0}
    return cohort, cost

  cohort, cost = made(members, together)
  asked = f'{count} prompts in one program take'
  said = f'; expected at most {gigabytes(budget)} (SWEEP_MEMORY)'
  if cost['peak_bytes'] > budget and cohort.together > 1:
    shared = cost['shared_bytes']
    together, _ = stacked.fitting(
      cost['peak_bytes'], shared, cohort.together, budget
    )
    say(
      f'{asked} {gigabytes(cost["peak_bytes"])}{said}: {together} of '
      'them at a time'
    )
    cohort, cost = made(members, together)
  if cost['peak_bytes'] <= budget:
    return [cohort]
  peak, shared = cost['peak_bytes'], cost['shared_bytes']
  most, fits = stacked.fitting(peak, shared, count, budget)
  sizes = stacked.parts(count, min(most, count - 1) or 1)
  say(
    f'{asked} {gigabytes(peak)}{said}: groups of '
    f'{", ".join(map(str, sizes))}, one after the other'
    + ('' if fits else '; even one is above it')
  )
  starts = np.cumsum([0, *sizes])
  return [
    made(members[a:b], together)[0]
    for a, b in zip(starts[:-1], starts[1:], strict=True)
  ]
