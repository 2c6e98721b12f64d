"""The start of a run: seconds from the command to its first step, by phase.

Phases do not overlap: one that begins inside another stops its clock. What
no phase holds, such as reading gin files, is 'other'.
"""

from collections.abc import Callable, Iterator
import contextlib
import threading
import time

import jax

import prompt_jax

PHASES = ('imports', 'data', 'load', 'compile', 'first_step')


class Startup:
  """A clock that stands once the first step is made.

  Args:
    began: reading of `clock` when the command was given.
    clock: seconds.
  """

  def __init__(self, began: float, clock: Callable[[], float] = time.monotonic):
    self._began, self._clock = began, clock
    self._seconds = dict.fromkeys(PHASES, 0.0)
    self._open: list[str] = []
    self._since = began
    self._total: float | None = None

  def _turn(self) -> None:
    """Gives the time since the last turn to the innermost phase."""
    now = self._clock()
    if self._open:
      self._seconds[self._open[-1]] += now - self._since
    self._since = now

  def imported(self) -> None:
    """All that has passed so far was importing; counted once."""
    if not self._seconds['imports'] and self._total is None:
      self._since = self._clock()
      self._seconds['imports'] = self._since - self._began

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """What happens inside is of the phase; one of `PHASES`.

    Only the main thread waits for phases, so only its are counted.
    """
    main = threading.current_thread() is threading.main_thread()
    if self._total is not None or not main:
      yield
      return
    self._turn()
    self._open.append(name)
    try:
      yield
    finally:
      self._turn()
      self._open.pop()

  def again(self) -> None:
    """Begins anew, for another run of the same process."""
    if self._total is not None:
      self.__init__(self._clock(), self._clock)

  def end(self) -> None:
    """The first step is made."""
    if self._total is None:
      self._turn()
      self._total = self._clock() - self._began

  def seconds(self) -> dict[str, float] | None:
    """{phase: seconds, 'other', 'total'}; None before the first step."""
    if self._total is None:
      return None
    other = self._total - sum(self._seconds.values())
    found = {**self._seconds, 'other': max(other, 0.0), 'total': self._total}
    return {name: round(value, 2) for name, value in found.items()}

  def said(self) -> str:
    """One line of it."""
    found = self.seconds() or {}
    each = [
      f'{name.replace("_", " ")} {value:.1f}'
      for name, value in found.items()
      if name != 'total'
    ]
    return f'first step after {found["total"]:.1f} s: {", ".join(each)}'


STARTUP = Startup(prompt_jax.BEGAN)


def announced(step: Callable, say: Callable[[str], None]) -> Callable:
  """The step, that says after its first call how long that has taken.

  Args:
    step: `(state, batch) -> (state, sums)`.
    say: writes a line.
  """
  waits = True

  def run(state, batch):
    nonlocal waits
    if not waits:
      return step(state, batch)
    waits = False
    with STARTUP.phase('first_step'):
      made = jax.block_until_ready(step(state, batch))
    STARTUP.end()
    say(STARTUP.said())
    return made

  return run
