"""The loop: batch, step, log, evaluate, save; and how it stops.

The order inside one turn matters: an evaluation comes before the save whose
metrics it gives, and a save never before the check that the numbers are
finite, so that every checkpoint on disk is a good one.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import signal
import threading
from typing import Any

import jax

from prompt_jax.errors import UserError
from prompt_jax.training.metrics import Log, Meter, check_finite
from prompt_jax.training.progress import Progress
from prompt_jax.training.state import State

EPOCH = 'epoch'  # a period of as many steps as the data has
_COUNTS = (
  'train_steps',
  'eval_period',
  'checkpoint_period',
  'log_period',
  'patience',
)
_PERIODS = ('eval_period', 'checkpoint_period')  # may be epochs


@dataclasses.dataclass(frozen=True)
class Plan:
  """When things happen, in steps of this run.

  Args:
    train_steps: steps in all.
    eval_period: steps between evaluations; 0 is only at the end; 'epoch' is
      once through the data, see `in_steps`.
    checkpoint_period: steps between checkpoints, likewise; 0 is as
      eval_period.
    log_period: steps between points of the training metrics; 0 is only at
      the end.
    best_metric: metric of the evaluation that is best when highest, such as
      'accuracy'; None keeps no best.
    patience: evaluations without a better best_metric after which the run
      stops; 0 is never.
  """

  train_steps: int
  eval_period: int | str = 0
  checkpoint_period: int | str = 0
  log_period: int = 50
  best_metric: str | None = None
  patience: int = 0

  def __post_init__(self):
    for field in _COUNTS:
      value = getattr(self, field)
      if field in _PERIODS and value == EPOCH:
        continue
      if not isinstance(value, int) or value < 0:
        also = f", or '{EPOCH}'" if field in _PERIODS else ''
        raise UserError(
          f'{field.upper()} is {value!r}; expected a whole number, 0 or more'
          f'{also}.'
        )
    if self.patience and self.best_metric is None:
      raise UserError(
        f'PATIENCE is {self.patience} but BEST_METRIC is None; expected the '
        "metric to wait for, such as --gin.BEST_METRIC='accuracy'."
      )
    if self.patience and not self.eval_period:
      raise UserError(
        f'PATIENCE is {self.patience} but EVAL_PERIOD is 0, which evaluates at '
        'the end alone; expected evaluations on the way, which patience '
        'counts. Give --gin.EVAL_PERIOD=100, say.'
      )

  @property
  def counts_epochs(self) -> bool:
    """Whether a period is an epoch, which `in_steps` has to settle first."""
    return any(getattr(self, field) == EPOCH for field in _PERIODS)

  def in_steps(self, epoch: int | None) -> 'Plan':
    """The plan with every period in steps.

    Args:
      epoch: steps of an epoch; None where nobody knows.
    Raises: UserError if a period is an epoch and nobody knows its steps.
    """
    by_epoch = [f for f in _PERIODS if getattr(self, f) == EPOCH]
    if by_epoch and not epoch:
      raise UserError(
        f"{by_epoch[0].upper()} is '{EPOCH}', but the data does not say how "
        'many examples it has; expected a period in steps. Give a number, such '
        f'as --gin.{by_epoch[0].upper()}=1000.'
      )
    return dataclasses.replace(self, **dict.fromkeys(by_epoch, epoch))

  def evaluates(self, step: int) -> bool:
    last = step == self.train_steps
    return last or bool(self.eval_period and step % self.eval_period == 0)

  def logs(self, step: int) -> bool:
    last = step == self.train_steps
    return last or bool(self.log_period and step % self.log_period == 0)

  def saves(self, step: int) -> bool:
    period = self.checkpoint_period or self.eval_period
    last = step == self.train_steps
    return last or bool(period and step % period == 0)


@dataclasses.dataclass
class Best:
  """The best evaluation so far; travels in the checkpoint's manifest."""

  value: float | None = None
  step: int | None = None
  waited: int = 0
  evaluated: int = 0  # the step of the newest evaluation

  def update(self, step: int, value: float) -> bool:
    """Takes a new value; True if it is better. Ties keep the earlier."""
    if self.value is None or value > self.value:
      self.value, self.step, self.waited = value, step, 0
      return True
    self.waited += 1
    return False


class Interruption:
  """SIGTERM as a flag that the loop reads between steps.

  Outside the main thread, where no handler can be set, it is never raised.
  """

  def __init__(self):
    self.requested = False
    self._old = None

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      self._old = signal.signal(signal.SIGTERM, self._request)
    return self

  def _request(self, *_):
    self.requested = True

  def __exit__(self, *_):
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)


class Loop:
  """Runs steps until the plan, patience or SIGTERM says stop.

  Args:
    plan: when things happen.
    step: `(state, batch) -> (state, sums)`, the compiled training step.
    evaluate: `(state) -> {metric: value}`.
    save: `(state, metrics or None, best) -> None`, checkpoint and export.
    log: where points go.
    progress: what people see.
    interruption: entered, so that SIGTERM is seen.
  """

  def __init__(
    self,
    plan: Plan,
    step: Callable,
    evaluate: Callable[[State], Mapping[str, float]],
    save: Callable[[State, Mapping[str, float] | None, Best], None],
    log: Log,
    progress: Progress,
    interruption: Interruption,
  ):
    self.plan, self._step, self._evaluate = plan, step, evaluate
    self._save, self._log, self._progress = save, log, progress
    self._interruption = interruption
    self._meter = Meter()
    self._inputs = [0.0, 0.0]  # real tokens and positions of this life
    # Sums wait here for one step, so that reading them does not hold up the
    # device, which is already at the next.
    self._pending: collections.deque = collections.deque()

  def _settle(self, paths, keep: int = 0) -> None:
    while len(self._pending) > keep:
      number, sums = self._pending.popleft()
      sums = jax.device_get(sums)
      check_finite(number, sums, paths)
      self._meter.add(sums)
      for i, name in enumerate(('input_tokens', 'input_positions')):
        self._inputs[i] += float(sums.get(name, 0.0))

  @property
  def padding_share(self) -> float | None:
    """Share of the input positions so far; None where that is not known."""
    tokens, positions = self._inputs
    return 1 - tokens / positions if positions else None

  def run(self, state: State, batches: Iterator[Any], best: Best) -> tuple:
    """Trains on.

    Returns: (state, best, why it stopped: 'done', 'patience' or 'SIGTERM').
    """
    plan, paths = self.plan, sorted(state.trainable)
    number = int(state.step)
    if number and plan.evaluates(number) and best.evaluated < number:
      # SIGTERM cut this one short: patience must see what it would have seen.
      found = self._evaluated(state, number, best)
      if found:  # the checkpoint is there; its prompts get their metrics
        self._save(state, found, best)
    while number < plan.train_steps:
      if plan.patience and best.waited >= plan.patience:
        return state, best, 'patience'
      if self._interruption.requested:
        self._settle(paths)
        self._save(state, None, best)
        return state, best, 'SIGTERM'
      state, sums = self._step(state, next(batches))
      number += 1
      self._pending.append((number, sums))
      self._settle(paths, keep=1)
      evaluates, saves = plan.evaluates(number), plan.saves(number)
      logs = plan.logs(number)
      if evaluates or saves or logs:
        self._settle(paths)
      if logs:
        metrics = self._meter.metrics()
        self._log.write(number, 'train', metrics)
        self._progress.show(number, metrics)
      found = self._evaluated(state, number, best) if evaluates else None
      if saves or evaluates:
        self._save(state, found, best)
    # an evaluation that SIGTERM cut short is made up for in the next life
    cut = self._interruption.requested and best.evaluated < number
    return state, best, 'SIGTERM' if cut else 'done'

  def _evaluated(self, state, number: int, best: Best):
    found = dict(self._evaluate(state))
    if found:
      best.evaluated = number
      self._log.write(number, 'eval', found)
      said = '  '.join(f'{k} {v:.2f}' for k, v in found.items())
      self._progress.say(f'eval  step {number}  {said}')
    metric = self.plan.best_metric
    if metric is not None and found:
      if metric not in found:
        raise UserError(
          f'BEST_METRIC is {metric!r}; expected one of '
          f'{", ".join(sorted(found))}.'
        )
      best.update(number, found[metric])
    return found
