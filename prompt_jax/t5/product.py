"""The one function that multiplies: every dense product of the model.

    y = cast(x) cast(w)          operands in `dtype`, result float32
    dx = cast(g) cast(w)^T       the same way, backward
    dw = cast(x)^T cast(g)       dropped by the compiler where w is frozen

Autodiff alone would multiply a float32 cotangent with a bfloat16 matrix,
which promotes both and loses the fast path; hence the rule written out.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from prompt_jax.typing import Array


def contracted(a: Array, b: Array, axes: tuple[int, int]) -> Array:
  """Contracts axis `axes[0]` of a with `axes[1]` of b, float32 result.

  A matrix b meets every leading axis of a; otherwise the leading axes of both
  are the same batch axes. Axes count from the end: -1 or -2.

  A single bfloat16 row is put beside itself on a CPU, for which XLA's
  compiler takes less than half as long for two rows as for one.
  """
  batch = () if b.ndim == 2 else tuple(range(b.ndim - 2))
  dims = (((a.ndim + axes[0],), (b.ndim + axes[1],)), (batch, batch))
  plain = lambda a, b: lax.dot_general(
    a, b, dims, preferred_element_type=jnp.float32
  )
  rows = a.shape[len(batch) : -1]
  if a.dtype != jnp.bfloat16 or axes[0] != -1 or math.prod(rows) != 1:
    return plain(a, b)
  doubled = lambda a, b: plain(jnp.concatenate([a, a], -2), b)[..., :1, :]
  return lax.platform_dependent(a, b, cpu=doubled, default=plain)


def _multiply(a, b, axes, dtype):
  return contracted(a.astype(dtype), b.astype(dtype), axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Array, w: Array, dtype: str) -> Array:
  """x w with operands in `dtype`, accumulated and returned in float32.

  Args:
    x: [..., T, D].
    w: [D, F], met by all leading axes of x; or [..., D, F] with the same
      leading axes as x.
    dtype: of the operands, 'float32' or 'bfloat16'.
  Returns: float32 [..., T, F].
  Source: design of mixed precision products; measured in benchmarks/step.py.
  """
  return _multiply(x, w, (-1, -2), dtype)


def _forward(x, w, dtype):
  return _multiply(x, w, (-1, -2), dtype), (x, w)


def _backward(dtype, operands, g):
  x, w = operands
  dx = _multiply(g, w, (-1, -1), dtype)
  if w.ndim == 2:
    # One contracted axis: products that contract two at once are slow.
    x = x.reshape(-1, x.shape[-1])
    g = g.reshape(-1, g.shape[-1])
  dw = _multiply(jnp.swapaxes(x, -1, -2), g, (-1, -2), dtype)
  return dx.astype(x.dtype), dw.astype(w.dtype)


product.defvjp(_forward, _backward)
