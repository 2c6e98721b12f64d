"""The products of attention under one rule, and heads in a fast layout.

    W = softmax(Q K^T + A)       y = W V
    dV = W^T g                   S = W * (g V^T - rowsum(W * g V^T))
    dQ = S K    dK = S^T Q       dA = S

The rule keeps W in the dtype of the operands, so that the backward pass reads
half the bytes, and every product has operands in `dtype` and a float32 result.

XLA's CPU compiler multiplies bfloat16 heads as they are only if they lie row
by row in memory; behind a transposition it promotes them to float32 and
copies them. There the heads are cut out and put behind one another instead,
which takes the compiler longer; float32 and other platforms have the
transposition.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from prompt_jax.t5.product import contracted
from prompt_jax.typing import Array, Float


def _stacked(y, heads):
  """`split`, one head cut out after the other."""
  size = y.shape[-1] // heads
  cuts = [y[..., i * size : (i + 1) * size] for i in range(heads)]
  return jnp.stack(cuts, axis=-3)


def _transposed(y, heads):
  """`split`, by a transposition."""
  size = y.shape[-1] // heads
  return y.reshape(*y.shape[:-1], heads, size).swapaxes(-2, -3)


def _joined(y):
  """The inverse of `split`, one head put beside the other."""
  return jnp.concatenate([y[..., i, :, :] for i in range(y.shape[-3])], axis=-1)


def _rejoined(y):
  """The inverse of `split`, by a transposition."""
  turned = y.swapaxes(-2, -3)
  return turned.reshape(*turned.shape[:-2], math.prod(turned.shape[-2:]))


def _turned(y):
  """[B,N,T,K] -> [B,N,K,T], each head by itself."""
  cuts = [y[..., i, :, :].swapaxes(-1, -2) for i in range(y.shape[-3])]
  return jnp.stack(cuts, axis=-3)


def _split(y, heads, dtype):
  if dtype != 'bfloat16':
    return _transposed(y, heads)
  return lax.platform_dependent(
    y,
    cpu=functools.partial(_stacked, heads=heads),
    default=functools.partial(_transposed, heads=heads),
  )


def _join(y, dtype):
  if dtype != 'bfloat16':
    return _rejoined(y)
  return lax.platform_dependent(y, cpu=_joined, default=_rejoined)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def split(
  y: Float[Array, 'B T NK'], heads: int, dtype: str
) -> Float[Array, 'B N T K']:
  """[B,T,N K] -> [B,N,T,K], for products with operands in `dtype`."""
  return _split(y, heads, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def join(y: Float[Array, 'B N T K'], dtype: str) -> Float[Array, 'B T NK']:
  """[B,N,T,K] -> [B,T,N K], the inverse of `split`."""
  return _join(y, dtype)


# each is the other's transpose; autodiff would pad and add a head at a time
split.defvjp(
  lambda y, heads, dtype: (_split(y, heads, dtype), None),
  lambda heads, dtype, _, g: (_join(g, dtype),),
)
join.defvjp(
  lambda y, dtype: (_join(y, dtype), y.shape[-3]),
  lambda dtype, heads, g: (_split(g, heads, dtype),),
)


def _turned_product(a, b):
  """a^T b, per head, as (b^T a)^T with both transpositions written out."""
  return _turned(contracted(_turned(b), a, (-1, -2)))


def _over_queries(a, b):
  """a^T b, per head: [B,N,T,J] and [B,N,T,K] -> float32[B,N,J,K]."""
  plain = lambda a, b: contracted(a, b, (-2, -2))
  # a cut of one head is no cut, and the transposition would be undone
  if a.dtype != jnp.bfloat16 or a.shape[-3] == 1:
    return plain(a, b)
  return lax.platform_dependent(a, b, cpu=_turned_product, default=plain)


def _weights(query, key, add, dtype):
  """softmax(Q K^T + A) in `dtype`."""
  scores = contracted(query, key, (-1, -1)) + add
  return jax.nn.softmax(scores, axis=-1).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
  query: Float[Array, 'B N T K'],
  key: Float[Array, 'B N J K'],
  value: Float[Array, 'B N J K'],
  add: Float[Array, 'B N T J'],
  dtype: str,
) -> Float[Array, 'B N T K']:
  """softmax(Q K^T + A) V with operands in `dtype`, the rest in float32.

  Args:
    query: [B,N,T,K]. key, value: [B,N,J,K].
    add: float32, added to the scores; axes of size 1 count for all.
    dtype: of the operands of both products, 'float32' or 'bfloat16'.
  Returns: float32[B,N,T,K].
  Source: Vaswani et al. 2017, section 3.2.1; the gradient of a softmax.
  Departures: no 1/sqrt(K), as in T5.
  """
  return _forward(query, key, value, add, dtype)[0]


def _forward(query, key, value, add, dtype):
  kinds = [jnp.zeros((), x.dtype) for x in (query, key, value)]
  query, key, value = (x.astype(dtype) for x in (query, key, value))
  weights = _weights(query, key, add, dtype)
  y = contracted(weights, value, (-1, -2))
  return y, (query, key, value, weights, add, kinds)


def _backward(dtype, saved, g):
  query, key, value, weights, add, kinds = saved
  g = g.astype(dtype)
  dvalue = _over_queries(weights, g)
  dweights = contracted(g, value, (-1, -1))
  wide = weights.astype(jnp.float32)
  mean = jnp.sum(wide * dweights, axis=-1, keepdims=True)
  dscores = wide * (dweights - mean)
  narrow = dscores.astype(dtype)
  dquery = contracted(narrow, key, (-1, -2))
  dkey = _over_queries(narrow, query)
  # dropped by the compiler where the position table is frozen
  shared = [i for i, size in enumerate(add.shape) if size == 1]
  dadd = jnp.sum(dscores, axis=tuple(shared), keepdims=True)
  found = zip((dquery, dkey, dvalue), kinds, strict=True)
  return *(x.astype(kind.dtype) for x, kind in found), dadd.astype(add.dtype)


attend.defvjp(_forward, _backward)
