"""Several pieces of work timed in turn, so that all meet the same machine."""

from collections.abc import Callable, Mapping
import statistics
import time

import jax

_WARM_UP = 2  # the first compiles, the second touches its buffers anew


def timed(call: Callable[[], object]) -> tuple[float, float]:
  """Seconds and CPU seconds until what a call returns is there."""
  began, cpu = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  return time.perf_counter() - began, time.process_time() - cpu


def in_turn(
  calls: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, tuple[float, float]]:
  """{name: medians of seconds and CPU seconds} of `repeats` turns.

  Two turns before them are not counted.
  """
  found: dict[str, list] = {name: [] for name in calls}
  for number in range(_WARM_UP + repeats):
    for name, call in calls.items():
      spent = timed(call)
      if number >= _WARM_UP:
        found[name].append(spent)
  return {
    name: tuple(statistics.median(each) for each in zip(*spent, strict=True))
    for name, spent in found.items()
  }
