"""Attention of few queries to many positions: kernels meet the queries.

    scores   q (x Wk)^T  =  (q Wk^T) x^T          y = w (x Wv)  =  (w x) Wv

The left sides make keys and values of every position, 4 J H N K; the right
sides leave the positions alone and cost 4 Q N H (J + K) for Q queries. A
decoder that reads a few target tokens has Q far below K. Keys and values are
then never made, forward or backward; only a product's order differs.
Source: associativity; DeepSeek-AI 2024 (DeepSeek-V2), section 2.1.2, where
"absorbed" kernels of keys and values serve decoding.
"""

import jax

from prompt_jax.t5.attend import attend, split
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.product import product
from prompt_jax.typing import Array, Float

# Products of few rows are slower a FLOP, so no more than half of the FLOPs may
# remain. A choice, not tuned: 8 targets were timed (benchmarks/decode.py).
WORTH = 2


def absorbs(config: T5Config, queries: int, keys: int) -> bool:
  """Whether kernels should meet the queries instead of the context.

  On CPUs alone: elsewhere it was never timed, and a TPU lays both kernels out
  anew in every step, for heads of 64 are half a row of its tiles.

  Args:
    config: K = d_kv.
    queries: Q of an example, those of all its targets.
    keys: J, positions of the context.
  """
  spares = WORTH * queries * (keys + config.d_kv) <= keys * config.d_kv
  return spares and jax.default_backend() == 'cpu'


def absorbed(
  query: Float[Array, 'B N Q K'],
  context: Float[Array, 'B J H'],
  key: Float[Array, 'H NK'],
  value: Float[Array, 'H NK'],
  add: Float[Array, 'B 1 1 J'],
  dtype: str,
) -> Float[Array, 'B N Q K']:
  """softmax(q (x Wk)^T + A) (x Wv), without keys and values.

  Args:
    query: q, float32[B,N,Q,K].
    context: x, float32[B,J,H].
    key, value: kernels Wk and Wv, [H,N K].
    add: A, float32, the same for all heads and queries.
    dtype: operands of the products, 'float32' or 'bfloat16'.
  Returns: float32[B,N,Q,K].
  """
  batch, heads, queries, _ = query.shape
  apart = lambda w: split(w[None], heads, dtype)[0]  # [N,H,K]

  def by_head(x):  # [B,N,Q,W] -> [N,B Q,W]
    return x.swapaxes(0, 1).reshape(heads, batch * queries, x.shape[-1])

  def by_row(x):
    return x.reshape(heads, batch, queries, x.shape[-1]).swapaxes(0, 1)

  # the heads of an example stand behind one another, as more queries of one
  met = by_row(product(by_head(query), apart(key).swapaxes(-1, -2), dtype))
  met = met.reshape(batch, 1, heads * queries, met.shape[-1])
  context = context[:, None]
  y = attend(met, context, context, add, dtype)
  y = y.reshape(batch, heads, queries, y.shape[-1])
  return by_row(product(by_head(y), apart(value), dtype))
