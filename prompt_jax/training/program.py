"""Programs: functions compiled once a shape, in a thread where one can wait."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
import time
from typing import Any

from absl import logging
import jax

from prompt_jax import heap


class Program:
  """A function compiled once a shape, that tells when it compiles again.

  Args:
    name: for messages.
    function: the function; its arguments are pytrees of arrays.
    several: whether several shapes are what is to be expected.
    jit_options: for `jax.jit` (shardings, donation).
  Attributes:
    seconds: that compiling has taken.
    flops: of all calls so far.
  """

  def __init__(
    self,
    name: str,
    function: Callable,
    several: bool = False,
    **jit_options: Any,
  ):
    self.name, self._several = name, several
    self._jitted = jax.jit(function, **jit_options)
    self._compiled: dict[Any, Any] = {}
    self._flops: dict[int, float] = {}  # by id of the executable
    self._planned: dict[Any, Future | None] = {}
    self._threads: ThreadPoolExecutor | None = None
    self.seconds = self.flops = 0.0

  def plan(self, *args, ahead: bool = True) -> None:
    """Tells of shapes to come, for which no one need be warned.

    Args:
      args: arrays, or their shapes with shardings.
      ahead: compile for them in a thread, those planned first at first.
    """
    key = _key(args)
    if key in self._compiled or self._planned.get(key):
      return
    self._planned[key] = None
    if ahead:
      if self._threads is None:
        self._threads = ThreadPoolExecutor(1, 'compile')
      self._planned[key] = self._threads.submit(self._compile, key, args)

  def close(self) -> None:
    """Ends the thread; waits for what it has begun."""
    if self._threads is not None:
      self._threads.shutdown(wait=True, cancel_futures=True)
      self._threads = None
      self._planned = dict.fromkeys(self._planned)

  def ready(self, *args) -> bool:
    """Whether a call with such arguments need not wait for the compiler."""
    return _key(args) in self._compiled

  def compiled(self, *args):
    """The executable for arguments of these shapes, made on first need."""
    key = _key(args)
    if key in self._compiled:
      return self._compiled[key]
    coming = self._planned.get(key)
    # what the thread has not begun yet is sooner there from here
    if coming is not None and not coming.cancel():
      coming.result()
      return self._compiled[key]
    if self._compiled and key not in self._planned and not self._several:
      logging.warning(
        'compiling %s again, for other shapes: %s',
        self.name,
        _changed(next(reversed(self._compiled)), key),
      )
    return self._compile(key, args)

  def _compile(self, key, args):
    start = time.monotonic()
    made = self._jitted.lower(*args).compile()
    heap.tidy()
    self._flops[id(made)] = float(made.cost_analysis().get('flops', 0.0))
    self._compiled[key] = made
    self.seconds += time.monotonic() - start
    return made

  def __call__(self, *args):
    made = self.compiled(*args)
    self.flops += self._flops.get(id(made), 0.0)
    return made(*args)

  @property
  def compilations(self) -> int:
    return len(self._compiled)

  def cost(self) -> dict[str, float]:
    """Figures of the largest executable: flops, bytes of its memory.

    Returns: {flops, argument_bytes, output_bytes, temp_bytes, peak_bytes}.
    """
    # a copy: a thread may be adding to it
    every = list(self._compiled.values())
    made = max(every, key=lambda each: self._flops[id(each)])
    memory, cost = made.memory_analysis(), {'flops': self._flops[id(made)]}
    for part in ('argument', 'output', 'temp', 'alias'):
      cost[f'{part}_bytes'] = int(getattr(memory, f'{part}_size_in_bytes'))
    cost['peak_bytes'] = (
      cost['argument_bytes']
      + cost['output_bytes']
      + cost['temp_bytes']
      - cost['alias_bytes']
    )
    return cost


def _key(args):
  """The signature of arguments: structure, shapes and types."""
  leaves, tree = jax.tree.flatten(args)
  return tree, tuple((x.shape, str(x.dtype)) for x in leaves)


def _changed(old, new) -> str:
  """The leaves whose shape or dtype moved between two signatures."""
  if old[0] != new[0]:
    return 'another structure of arguments'
  return ', '.join(
    f'{a[1]}{list(a[0])} -> {b[1]}{list(b[0])}'
    for a, b in zip(old[1], new[1], strict=True)
    if a != b
  )
