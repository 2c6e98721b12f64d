"""The training step of whatever stage a run is in.

While one stage trains, the next is compiled in a thread, for all lengths of
the inputs; a stage begins when its program is there for the first of them.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import time
from typing import Any

import jax

from prompt_jax.stages import Parts, Schedule, shapes_of
from prompt_jax.training.step import Program


class Staged:
  """`(state, batch) -> (state, sums)`, called once an update in order.

  Args:
    schedule: the stages.
    parts: their models and what is frozen in them.
    program: the program of a stage, by its number; not compiled yet.
    start: updates made before.
    say: tells that a stage begins.
    others: {input length: batches to come}, see `Dataset.shapes`.
  Attributes:
    rows: {stage: {'timed_steps', 'seconds', 'flops'}} of this life; flops are
      the mean of a step.
  """

  def __init__(
    self,
    schedule: Schedule,
    parts: Parts,
    program: Callable[[int], Program],
    start: int,
    say: Callable[[str], None] = lambda text: None,
    others: Mapping[int, int] | None = None,
  ):
    self._schedule, self._parts, self._program = schedule, parts, program
    self._say, self._number, self._end = say, start, start
    self._stage, self._frozen, self._like = None, {}, None
    self._others, self._spent = others or {}, 0.0
    self._current: Program | None = None
    self._threads = ThreadPoolExecutor(1, 'compile')
    self._coming: dict[int, Future] = {}
    self._since = None  # when the clock was started; None: it stands
    self.rows: dict[int, dict[str, Any]] = {}

  def begin(self, state, batch) -> Program:
    """Compiles the stage to go on in, for such arguments; its program."""
    self._like = shapes_of((state, batch))
    self._enter(self._schedule.at(self._number))
    return self._current

  def __call__(self, state, batch):
    if self._number == self._end:
      self._stand(state)
      self._enter(self._stage + 1)
    program, row = self._current, self.rows[self._stage]
    if not program.ready(state, self._frozen, batch):
      self._stand(state)
      program.compiled(state, self._frozen, batch)
    if self._since is None:
      self._since = time.monotonic()
    self._number += 1
    row['timed_steps'] += 1
    before = program.flops
    made = program(state, self._frozen, batch)
    self._spent += program.flops - before
    row['flops'] = self._spent / row['timed_steps']
    return made

  def outside(self, function: Callable) -> Callable:
    """The function `(state, ...)`, whose time is not that of training."""

    def timed(state, *args):
      self._stand(state)
      return function(state, *args)

    return timed

  def close(self) -> None:
    """Ends the compiling; waits for what has begun."""
    self._threads.shutdown(wait=True, cancel_futures=True)
    for stage in self._coming:
      self._program(stage).close()
    if self._current is not None:
      self._current.close()

  def _stand(self, state) -> None:
    """Stops the clock once the updates so far are made."""
    if self._since is not None:
      jax.block_until_ready(state.step)
      self.rows[self._stage]['seconds'] += time.monotonic() - self._since
      self._since = None

  def _enter(self, stage: int) -> None:
    """Makes a stage the current one; waits until it is compiled."""
    self._frozen = {}  # lets go of the last one before the next is made
    if self._current is not None:
      self._current.close()
    coming = self._coming.pop(stage, None)
    if coming is None:
      self._compile(stage)
    else:
      coming.result()
    self._stage, self._frozen = stage, self._parts.frozen(stage)
    self._end = self._schedule.end(stage)
    self._current, self._spent = self._program(stage), 0.0
    flops = self._current.cost()['flops']
    self.rows[stage] = {'timed_steps': 0, 'seconds': 0.0, 'flops': flops}
    if not self._schedule.is_plain:
      self._say(
        f'stage {stage + 1} of {len(self._schedule)}, from step '
        f'{self._number:,} to {self._end:,}: {self._schedule.cuts[stage]}'
      )
    if stage + 1 < len(self._schedule):
      self._coming[stage + 1] = self._threads.submit(self._compile, stage + 1)

  def _compile(self, stage: int) -> None:
    """Compiles for the first length, and plans for the others."""
    state, batch = self._like
    program, frozen = self._program(stage), self._parts.shapes(stage)
    program.compiled(state, frozen, batch)
    name = 'encoder_input_tokens'
    for length, batches in self._others.items():
      like = batch[name]
      shape = (like.shape[0], length)
      like = jax.ShapeDtypeStruct(shape, like.dtype, sharding=like.sharding)
      batch = {**batch, name: like}
      program.plan(state, frozen, batch, ahead=batches > 0)
