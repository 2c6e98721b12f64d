"""The parts of a T5 layer: dense, norm, positions, attention, MLP, embedding.

Parameter names, shapes and logical axes are those of T5X's per-layer trees,
so that public checkpoints fit as they are. Residual stream, norms, softmax
and results of products are float32; operands of products are in
`config.activation_dtype`.
"""

from collections.abc import Callable
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.t5.absorb import absorbed, absorbs
from prompt_jax.t5.attend import attend, join, split
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.product import product
from prompt_jax.t5.quantized import Quantized, dequantize, quantized_product
from prompt_jax.t5.sites import Inserts, changes_keys, site
from prompt_jax.typing import Array

_MASKED = -1e10  # added to scores that may not be attended to; T5X's value

# Initialisers as in T5X's T5 1.1: fan_in on the 2-D kernel.
_attention_init = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
_dense_init = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'truncated_normal'
)
_relpos_init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


class Dense(nn.Module):
  """y = x kernel, without a bias; kernel [D,F] with logical axes `axes`.

  A frozen kernel may be `Quantized`.
  """

  features: int
  axes: tuple[str, str]
  dtype: str
  kernel_init: Callable = _dense_init

  @nn.compact
  def weights(self, width: int) -> Array | Quantized:
    """The kernel, for inputs of `width` D."""
    return self.param(
      'kernel',
      nn.with_logical_partitioning(self.kernel_init, self.axes),
      (width, self.features),
    )

  def __call__(self, x: Array) -> Array:
    kernel = self.weights(x.shape[-1])
    multiply = quantized_product if isinstance(kernel, Quantized) else product
    return multiply(x, kernel, self.dtype)


class RMSNorm(nn.Module):
  """y = x / sqrt(mean(x^2) + epsilon) * scale, in float32; no mean, no bias."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param(
      'scale',
      nn.with_logical_partitioning(nn.initializers.ones, ('embed',)),
      (x.shape[-1],),
    )
    x = x.astype(jnp.float32)
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normed = x * jax.lax.rsqrt(square + self.epsilon)
    return normed * scale.astype(jnp.float32).reshape(
      (1,) * (x.ndim - 1) + (-1,)
    )


class Embed(nn.Module):
  """The table [V,H] of the token embedding, shared by both stacks."""

  config: T5Config

  def setup(self):
    self.embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ('vocab', 'embed')
      ),
      (self.config.vocab_size, self.config.d_model),
    )

  def __call__(self, tokens: Array) -> Array:
    """int[B,T] -> float32[B,T,H]; not scaled by sqrt(H)."""
    return jnp.take(self.embedding, tokens, axis=0).astype(jnp.float32)

  def attend(self, y: Array) -> Array:
    """Tied logits: y E^T / sqrt(H), float32[B,U,V]. Raffel et al. 2020."""
    logits = product(y, self.embedding.T, self.config.activation_dtype)
    return logits / math.sqrt(self.config.d_model)


def buckets(relative, bidirectional: bool, num_buckets=32, max_distance=128):
  """Relative position bucket of each (key - query) distance.

  Half of the buckets (all of its half if bidirectional) hold one distance
  each, the rest grow logarithmically up to `max_distance` tokens.

  Args:
    relative: int array, key position minus query position, in tokens.
    bidirectional: True in the encoder, False where keys never follow.
  Returns: int32 array of the same shape, values below `num_buckets`.
  Source: Raffel et al. 2020, section 2.1; T5X's released code for the +eps.
  """
  n = -relative
  bucket = jnp.zeros_like(n)
  if bidirectional:
    num_buckets //= 2
    bucket = jnp.where(n < 0, num_buckets, 0)
    n = jnp.abs(n)
  else:
    n = jnp.maximum(n, 0)
  exact = num_buckets // 2
  eps = np.finfo(np.float32).eps
  growth = jnp.log(n.astype(jnp.float32) / exact + eps)
  growth = growth / np.float32(math.log(max_distance / exact))
  far = exact + (growth * (num_buckets - exact)).astype(jnp.int32)
  far = jnp.minimum(far, num_buckets - 1)
  return (bucket + jnp.where(n < exact, n, far)).astype(jnp.int32)


class RelativePositionBias(nn.Module):
  """One table [N, buckets] a stack, shared by all its layers."""

  config: T5Config
  bidirectional: bool

  @nn.compact
  def __call__(self, queries: Array, keys: Array) -> Array:
    """Positions int[T], int[J] (tokens) -> float32[1,N,T,J]."""
    c = self.config
    table = self.param(
      'rel_embedding',
      nn.with_logical_partitioning(_relpos_init, ('heads', 'relpos_buckets')),
      (c.num_heads, c.relpos_num_buckets),
    )
    index = buckets(
      keys[None, :] - queries[:, None],
      self.bidirectional,
      c.relpos_num_buckets,
      c.relpos_max_distance,
    )
    return jnp.take(table.astype(jnp.float32), index, axis=1)[None]


class Dropout(nn.Module):
  """Dropout whose mask is shared along the length axis, as T5X's."""

  rate: float

  @nn.compact
  def __call__(self, x: Array, deterministic: bool) -> Array:
    return nn.Dropout(self.rate, broadcast_dims=(-2,))(x, deterministic)


class Attention(nn.Module):
  """Multi-head attention without biases and without 1/sqrt(K) at run time.

  softmax(q k^T + position bias + mask) v; the query initialiser is divided by
  sqrt(K) instead. Heads stand ahead of length, [B,N,T,K].
  """

  config: T5Config
  inserts: Inserts = ()

  def _dense(self, name: str, init=_attention_init) -> Dense:
    c = self.config
    width, axes = c.num_heads * c.d_kv, ('embed', 'joined_kv')
    return Dense(width, axes, c.activation_dtype, init, name=name)

  def _heads(self, name: str, x: Array, rows, init=_attention_init) -> Array:
    """[R,T,H] -> [B,N,T R/B,K] with B `rows`: neighbours in one."""
    c = self.config
    y = site(self, name, self._dense(name, init)(x), x)
    y = y.reshape(rows, -1, y.shape[-1])
    return split(y, c.num_heads, c.activation_dtype)

  def _remember(self, key, value, position, length):
    """Writes a chunk of keys and values into the cache at `position`."""
    whole = (*key.shape[:2], length, key.shape[3])  # [R,N,length,K]
    dtype = self.config.activation_dtype
    chunks = []
    for name, chunk in (('cached_key', key), ('cached_value', value)):
      store = self.variable('cache', name, jnp.zeros, whole, dtype)
      store.value = jax.lax.dynamic_update_slice_in_dim(
        store.value, chunk.astype(dtype), position, axis=2
      )
      chunks.append(store.value)
    return chunks

  def _recall(self, context):
    """Keys and values of the encoder: made once, then kept in the cache."""
    dtype = self.config.activation_dtype
    kept = []
    for name in ('key', 'value'):
      make = lambda name=name: self._heads(name, context, len(context)).astype(
        dtype
      )
      kept.append(self.variable('cache', f'cached_{name}', make).value)
    return kept

  def _pair(self, x, context, position, length):
    """Keys and values [B,N,J,K], those of earlier steps among them."""
    if position is not None and context is not x:
      return self._recall(context)
    heads = lambda name: self._heads(name, context, len(context))
    pair = heads('key'), heads('value')
    if position is None:
      return pair
    return self._remember(*pair, position, length)

  def _ahead(self, key, value, allowed, x):
    """Keys, values and mask with the rows that stand ahead of them."""
    c = self.config
    if not c.num_encoder_layers:  # padding stands there
      return key, value, allowed
    nothing = jnp.zeros((1, 0, 2 * c.num_heads * c.d_kv))
    rows = site(self, 'ahead', nothing, x)
    if not rows.shape[1]:
      return key, value, allowed
    both = split(rows, 2 * c.num_heads, c.activation_dtype)  # [1,2N,P,K]
    first = [
      jnp.broadcast_to(half, (len(key), *half.shape[1:])).astype(key.dtype)
      for half in jnp.split(both, 2, axis=1)
    ]
    key, value = (
      jnp.concatenate(pair, axis=2)
      for pair in zip(first, (key, value), strict=True)
    )
    allowed = jnp.pad(
      allowed, [(0, 0)] * 3 + [(rows.shape[1], 0)], constant_values=True
    )
    return key, value, allowed

  def _absorbs(self, x, context, allowed) -> bool:
    """Whether keys and values need not be made, see `t5.absorb`."""
    queries = x.shape[0] * x.shape[1] // len(context)
    return (
      absorbs(self.config, queries, context.shape[1])
      and allowed.shape[1:3] == (1, 1)
      and not changes_keys(self.inserts, '/'.join(self.path))
    )

  def _kernel(self, name: str) -> Array:
    """[H,N K]; one in int8 is opened, for these products are small."""
    kernel = self._dense(name).weights(self.config.d_model)
    return dequantize(kernel) if isinstance(kernel, Quantized) else kernel

  def _kept(self, value, deterministic):
    """Values [B,N,J,K] without the keys that dropout leaves out.

    Its mask is one for all queries, so that dropping a column of the weights
    is dropping a row of the values.
    """
    rate = self.config.dropout_rate
    if deterministic or not rate:
      return value
    kept = jnp.ones((*value.shape[:-2], 1, value.shape[-2]))  # [B,N,1,J]
    return value * Dropout(rate)(kept, deterministic).swapaxes(-1, -2)

  @nn.compact
  def __call__(
    self,
    x: Array,
    context: Array,
    allowed: Array,
    bias: Array | None = None,
    position: Array | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Attends from x to context.

    Args:
      x: float32[R,T,H]; R is B, or in cross attention a multiple of it:
        neighbours that share a context, as labels of one input do.
      context: float32[B,J,H]; x itself in self attention; None in a decoding
        step of cross attention over kept keys and values.
      allowed: bool, broadcastable to [B,N,T R/B,J].
      bias: float32[1,N,T,A + J] or None, A the most rows ahead of a layer.
      position: None, or that of the first query while decoding step by step;
        the cache then has J positions. Cross attention (context is not x)
        keeps the keys and values of its first call.
      deterministic: no dropout.
    Returns: float32[R,T,H].
    """
    c = self.config
    init = lambda *args: _attention_init(*args) / math.sqrt(c.d_kv)
    is_plain = position is None and bias is None
    is_plain &= deterministic or not c.dropout_rate
    if context is not x and is_plain and self._absorbs(x, context, allowed):
      query = self._heads('query', x, len(context), init)
      kernels = self._kernel('key'), self._kernel('value')
      add = jnp.where(allowed, 0.0, _MASKED)
      y = absorbed(query, context, *kernels, add, c.activation_dtype)
    else:
      # J is read off a shape: under remat an int would be traced.
      key, value = self._pair(x, context, position, allowed.shape[-1])
      query = self._heads('query', x, len(key), init)
      key, value, allowed = self._ahead(key, value, allowed, x)
      add = jnp.where(allowed, 0.0, _MASKED)
      if bias is not None:  # other layers may have more rows ahead
        add = add + bias[..., bias.shape[-1] - key.shape[-2] :]
      y = attend(
        query, key, self._kept(value, deterministic), add, c.activation_dtype
      )
    # [R,T,N K]
    y = join(y, c.activation_dtype).reshape(*x.shape[:2], c.num_heads * c.d_kv)
    dense = Dense(
      c.d_model,
      ('joined_kv', 'embed'),
      c.activation_dtype,
      _attention_init,
      name='out',
    )
    return site(self, 'out', dense(y), y)


_ACTIVATIONS = {
  'relu': jax.nn.relu,
  'gelu': functools.partial(jax.nn.gelu, approximate=True),
  'linear': lambda x: x,
}


class MLP(nn.Module):
  """(act_0(x wi_0) * act_1(x wi_1)) wo, or act(x wi) wo.

  Args: `width` is F; None is that of the configuration.
  """

  config: T5Config
  inserts: Inserts = ()
  width: int | None = None

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    c = self.config
    hidden, width = 1.0, self.width or c.d_ff
    for i, activation in enumerate(c.mlp_activations):
      name = f'wi_{i}' if c.is_gated else 'wi'
      dense = Dense(width, ('embed', 'mlp'), c.activation_dtype, name=name)
      hidden = hidden * _ACTIVATIONS[activation](site(self, name, dense(x), x))
    hidden = site(self, 'hidden', hidden, x)
    hidden = Dropout(c.dropout_rate)(hidden, deterministic)
    dense = Dense(c.d_model, ('mlp', 'embed'), c.activation_dtype, name='wo')
    return site(self, 'wo', dense(hidden), hidden)
