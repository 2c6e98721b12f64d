"""A member of a sweep: one run, its state and where it stands.

It evaluates, logs, saves and stops as `training.loop` does for a run alone,
and leaves the same folder; only its updates are made beside those of others.
"""

from collections.abc import Callable, Mapping
import dataclasses
import time
from typing import Any

from prompt_jax import export, files
from prompt_jax.errors import UserError
from prompt_jax.training.loop import Best, Interruption
from prompt_jax.training.metrics import (
  Log,
  Meter,
  NonFiniteError,
  check_finite,
)

DIVERGED = 'diverged'


@dataclasses.dataclass
class Member:
  """One of the prompts that train together.

  Args:
    name: of its folder.
    about: {'seed', 'rate', 'start', 'task'}, what it has of its own.
    run: the `train.Run`, its plan in steps.
    config: gin text of the run.
    configure: makes that gin's configuration again, for a session to start.
  Attributes:
    session, state, best: of the run, see `session.Session`.
    number: updates made.
    reason: why it stopped; None while it is active.
    failure: of a member whose numbers were no longer finite.
  """

  name: str
  about: dict[str, Any]
  run: Any
  config: str
  configure: Callable[[], None]
  session: Any = None
  state: Any = None
  best: Best = dataclasses.field(default_factory=Best)
  number: int = 0
  reason: str | None = None
  failure: str | None = None

  def open(self, session, interruption: Interruption, say) -> None:
    """Takes a session, and the newest checkpoint of its folder.

    Args:
      session: of the run.
      interruption: ends it between updates.
      say: prints a line.
    """
    self.session, self._interruption, self._say = session, interruption, say
    self.state, self.best = session.restore()
    self.number = int(self.state.step)
    self.paths = sorted(self.state.trainable)
    self._meter, self._log = Meter(), None
    plan = self.run.plan
    owed = bool(self.run.evaluations) and self.best.evaluated < self.number
    if self.number >= plan.train_steps and not (self.number and owed):
      self.reason = 'done'
    elif plan.patience and self.best.waited >= plan.patience:
      self.reason = 'patience'

  @property
  def active(self) -> bool:
    """Whether it still trains."""
    return self.reason is None

  def begin(self) -> None:
    """What comes before the first update of this life."""
    files.write_text(self.run.folder / 'config.gin', self.config)
    self._log = Log(self.run.folder, self.number)
    if self.number == 0:
      self.session.export(self.state, {})  # as the release keeps it
    elif self.run.plan.evaluates(self.number):
      if self.best.evaluated < self.number:  # SIGTERM cut this one short
        found = self._evaluated(self.state)
        if found:
          self._save(self.state, found)
      self._stop_or_go_on()
    self._meter = Meter()

  def take(self, number: int, sums: Mapping[str, Any]) -> None:
    """Takes the sums of one of its updates, on the host."""
    try:
      check_finite(number, sums, self.paths)
    except NonFiniteError as error:
      self.reason, self.failure = DIVERGED, str(error)
      self._say(f'{self.name}: {error}')
    else:
      self._meter.add(sums)

  @property
  def due(self) -> bool:
    """Whether something is to be done between this update and the next."""
    plan, n = self.run.plan, self.number
    return plan.evaluates(n) or plan.saves(n) or plan.logs(n)

  def turn(self, state) -> dict[str, float] | None:
    """Logs, evaluates and saves after an update, as far as it is time.

    Returns: the training metrics, where they were logged.
    """
    plan, n, metrics = self.run.plan, self.number, None
    if plan.logs(n):
      metrics = self._meter.metrics()
      self._log.write(n, 'train', metrics)
    found = self._evaluated(state) if plan.evaluates(n) else None
    if plan.saves(n) or plan.evaluates(n):
      self._save(state, found)
    self._stop_or_go_on()
    return metrics

  def interrupt(self, state) -> None:
    """Saves where it stands, and stops until its next life."""
    self._save(state, None)
    self.reason = 'SIGTERM'

  def close(self) -> None:
    """Ends what it has open."""
    if self._log is not None:
      self._log.close()
    self.session.checkpoints.close()

  def _stop_or_go_on(self) -> None:
    plan = self.run.plan
    if self.number >= plan.train_steps:
      cut = self._interruption.requested and self.best.evaluated < self.number
      self.reason = 'SIGTERM' if cut and self.run.evaluations else 'done'
    elif plan.patience and self.best.waited >= plan.patience:
      self.reason = 'patience'

  def _evaluated(self, state) -> dict[str, float]:
    found = dict(self.session.evaluate(state))
    if not found:
      return found
    self.best.evaluated = self.number
    self._log.write(self.number, 'eval', found)
    said = '  '.join(f'{k} {v:.2f}' for k, v in found.items())
    self._say(f'eval  {self.name}  step {self.number}  {said}')
    metric = self.run.plan.best_metric
    if metric is not None:
      if metric not in found:
        raise UserError(
          f'BEST_METRIC is {metric!r}; expected one of '
          f'{", ".join(sorted(found))}.'
        )
      self.best.update(self.number, found[metric])
    return found

  def _save(self, state, metrics) -> None:
    session = self.session
    session.export(state, metrics)
    manifest = {
      'identity': session.identity,
      'best': dataclasses.asdict(self.best),
      'metrics': dict(metrics or {}),
      'base': str(self.run.base),
      'data_position': self.number,
      'activation_dtype': self.run.model.config.activation_dtype,
      'config': self.config,
      'versions': export.versions(),
    }
    session.checkpoints.save(state, manifest)


class Clock:
  """Seconds of training, without what happens between updates."""

  def __init__(self, clock=time.monotonic):
    self._clock, self._since, self.seconds = clock, None, 0.0

  def go(self) -> None:
    """Starts, if it stands."""
    if self._since is None:
      self._since = self._clock()

  def stand(self) -> None:
    """Stops, if it goes."""
    if self._since is not None:
      self.seconds += self._clock() - self._since
      self._since = None
