"""Which dtype products are faster in here: what ACTIVATION_DTYPE='auto' is.

    bfloat16 x bfloat16 -> float32   against   float32 x float32 -> float32

A CPU without instructions for bfloat16 multiplies it more slowly than float32.
Accelerators have them all.
"""

import functools
import time

from absl import logging
import jax
import jax.numpy as jnp

from prompt_jax.t5.product import product

_SIZE = 512  # d_model of T5 small: 0.27 GFLOP, about a millisecond
_TIMES = 5  # the fastest counts; whatever else runs only adds to the others


def _seconds(dtype: str) -> float:
  """Seconds of the fastest of some products of the model's kind."""
  x = jnp.ones((_SIZE, _SIZE), jnp.float32)
  w = jnp.ones((_SIZE, _SIZE), dtype)
  run = jax.jit(lambda x, w: product(x, w, dtype))
  run(x, w).block_until_ready()
  fastest = float('inf')
  for _ in range(_TIMES):
    began = time.perf_counter()
    run(x, w).block_until_ready()
    fastest = min(fastest, time.perf_counter() - began)
  return fastest


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
      seconds = {dtype: _seconds(dtype) for dtype in ('bfloat16', 'float32')}
    chosen = min(seconds, key=seconds.get)
    why = ', '.join(f'{d} {1e3 * s:.2f} ms' for d, s in seconds.items())
  logging.info(
    "ACTIVATION_DTYPE 'auto' is %s here (a product of side %d: %s)",
    chosen,
    _SIZE,
    why,
  )
  return chosen
