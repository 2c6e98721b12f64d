"""Which dtype products are faster in here: what ACTIVATION_DTYPE='auto' is.

    bfloat16 x bfloat16 -> float32   against   float32 x float32 -> float32

A CPU without instructions for bfloat16 multiplies it more slowly than float32.
Accelerators have them all.
"""

from collections.abc import Callable, Mapping
import functools
import time

from absl import logging
import jax
import jax.numpy as jnp

from prompt_jax.t5.product import product

_DTYPES = ('bfloat16', 'float32')
_ROWS = 2048  # a batch's positions: 8 x (128 + 100) are 1,824
_SIZE = 512  # d_model of T5 small; 1.1 GFLOP, some milliseconds
_TIMES = 7


def _fastest(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
  """Seconds of the fastest of some calls of each, made in turn.

  Whatever else runs only adds to them; in turn, it adds to all. With a quarter
  of the rows, one dtype after the other, 3 of 60 measurements named the slower
  one on a CPU on which bfloat16 takes 1.6 times as long.
  """
  found = dict.fromkeys(calls, float('inf'))
  for _ in range(_TIMES):
    for name, call in calls.items():
      began = time.perf_counter()
      call()
      found[name] = min(found[name], time.perf_counter() - began)
  return found


def _seconds() -> dict[str, float]:
  """{dtype: seconds of a product of the model's kind}."""

  def made(dtype: str) -> Callable[[], object]:
    x = jnp.ones((_ROWS, _SIZE), jnp.float32)
    w = jnp.ones((_SIZE, _SIZE), dtype)
    run = jax.jit(lambda x, w: product(x, w, dtype))
    call = lambda: run(x, w).block_until_ready()
    call()  # compiles
    return call

  return _fastest({dtype: made(dtype) for dtype in _DTYPES})


@functools.cache
def activation_dtype() -> str:
  """'bfloat16' or 'float32', whichever this machine multiplies faster.

  Measured once a process and logged. Accelerators, and CPUs of several hosts,
  which have to agree, take 'bfloat16' unmeasured.
  """
  backend = jax.default_backend()
  if backend != 'cpu' or jax.process_count() > 1:
    chosen, why = 'bfloat16', f'{jax.process_count()} process(es) of {backend}'
  else:
    # the configuration may be made while a function is traced
    with jax.ensure_compile_time_eval():
      seconds = _seconds()
    chosen = min(seconds, key=seconds.get)
    why = ', '.join(f'{d} {1e3 * s:.2f} ms' for d, s in seconds.items())
  logging.info(
    "ACTIVATION_DTYPE 'auto' is %s here (a product of %d rows of %d: %s)",
    chosen,
    _ROWS,
    _SIZE,
    why,
  )
  return chosen
