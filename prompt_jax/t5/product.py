"""The one function that multiplies: every dense product of the model.

    y = cast(x) cast(w)          operands in `dtype`, result float32
    dx = cast(g) cast(w)^T       the same way, backward
    dw = cast(x)^T cast(g)       dropped by the compiler where w is frozen

Autodiff alone would multiply a float32 cotangent with a bfloat16 matrix,
which promotes both and loses the fast path; hence the rule written out.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from prompt_jax.typing import Array


def _multiply(a, b, contract, dtype):
  """Contracts axis `contract[0]` of a with `contract[1]` of b.

  A matrix b meets every leading axis of a; otherwise the leading axes of both
  are the same batch axes.
  """
  batch = () if b.ndim == 2 else tuple(range(b.ndim - 2))
  dims = (((a.ndim + contract[0],), (b.ndim + contract[1],)), (batch, batch))
  return lax.dot_general(
    a.astype(dtype), b.astype(dtype), dims, preferred_element_type=jnp.float32
  )


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
