"""The stack of a T5 without an encoder: a prefix language model.

    positions     [ padding | 0  x_0 .. x_n-1 | y_0  y_1 .. y_U-2 ]
    states        those of x_n-1, y_0 .. y_U-2 give the logits of y_0 .. y_U-1
    key j seen    j <= max(i, S - 1), and j is real

S = 1 + T positions are the prefix, the start token and the input: they see
each other, targets see them and what came before. Padding stands ahead of
the prefix, so that in every row the targets follow their input at once and
one cursor serves all rows of a cache; positions are relative, so that only
the distances count.
Source: Raffel et al. 2020, section 3.2.1 (prefix LM); T5X's decoder-only
model, for the layout of a row and the names of parameters.
Departures: T5X has the padding last.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.t5.config import T5Config
from prompt_jax.t5.cursor import Cursor
from prompt_jax.t5.layers import (
  MLP,
  Attention,
  Dense,
  Dropout,
  Embed,
  RelativePositionBias,
  RMSNorm,
)
from prompt_jax.t5.sites import Inserts
from prompt_jax.typing import Array, Bool, Float


class Prefix(NamedTuple):
  """What targets follow: embedded positions, the real ones at the end."""

  embeds: Float[Array, 'B S H']
  mask: Bool[Array, 'B S']
  # as of `Encoder.stack`, over the prefix and the targets behind it
  enter: Callable | None = None


def opened(start: Float[Array, 'B 1 H'], encoded):
  """The start token before the input.

  Args:
    start: its embedding.
    encoded: Encoded: embedded inputs and where they are real.
  Returns: (embeds float32[B,1+T,H], mask bool[B,1+T]), the real ones first.
  """
  states, mask = encoded
  first = jnp.ones((mask.shape[0], 1), bool)
  return (
    jnp.concatenate([start, states], axis=1),
    jnp.concatenate([first, mask], axis=1),
  )


def at_the_end(mask: Bool[Array, 'B S'], *arrays: Array) -> list[Array]:
  """Turns each row until its real positions, which come first, come last.

  out[b,j] = array[b, (j - (S - n_b)) mod S]      n_b = sum(mask[b])

  Args:
    mask: bool[B,S].
    arrays: [B,S,...], such as the mask itself.
  Returns: the arrays, turned.
  """
  size = mask.shape[1]
  padding = size - jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32)
  source = (jnp.arange(size)[None, :] - padding) % size  # [B,S]
  index = lambda x: source.reshape(source.shape + (1,) * (x.ndim - 2))
  return [jnp.take_along_axis(x, index(x), axis=1) for x in arrays]


class DecoderOnlyLayer(nn.Module):
  """Self attention and MLP, each with norm and residual."""

  config: T5Config
  inserts: Inserts = ()

  @nn.compact
  def __call__(self, h, allowed, bias, position, deterministic=True):
    """float32[B,J,H] -> float32[B,J,H]."""
    c = self.config
    drop = Dropout(c.dropout_rate)
    norm = lambda name: RMSNorm(c.layer_norm_epsilon, name=name)
    x = norm('pre_self_attention_layer_norm')(h)
    y = Attention(c, self.inserts, name='self_attention')(
      x, x, allowed, bias, position, deterministic
    )
    h = h + drop(y, deterministic)
    x = norm('pre_mlp_layer_norm')(h)
    y = MLP(c, self.inserts, c.decoder_d_ff, name='mlp')(x, deterministic)
    return h + drop(y, deterministic)


class Kept(nn.Module):
  """An array that the first call puts into the cache and all return."""

  @nn.compact
  def __call__(self, array: Array) -> Array:
    return self.variable('cache', 'array', lambda: array).value


class DecoderOnly(nn.Module):
  """The stack over embedded inputs and targets, with table and output matrix.

  It is called as `Decoder` is; `encoded` are inputs as they were embedded.
  """

  config: T5Config
  inserts: Inserts = ()

  def setup(self):
    c = self.config
    layer = DecoderOnlyLayer
    if c.remat == 'full':
      # `deterministic`, the last argument, decides what is traced
      layer = nn.remat(layer, prevent_cse=False, static_argnums=(5,))
    self.token_embedder = Embed(c)
    self.relpos_bias = RelativePositionBias(c, bidirectional=False)
    self.layers = [layer(c, self.inserts) for _ in range(c.num_decoder_layers)]
    self.decoder_norm = RMSNorm(c.layer_norm_epsilon)
    self.dropout = Dropout(c.dropout_rate)
    self.cursor, self.last = Cursor(), Kept()
    if not c.tied_logits:
      self.logits_dense = Dense(
        c.vocab_size, ('embed', 'vocab'), c.activation_dtype
      )

  def prefix(self, start, encoded, behind: int, task_ids=None) -> Prefix:
    """What the targets follow.

    Args:
      start: float32[B,1,H], the embedded start token.
      encoded: Encoded.
      behind: positions after the prefix.
      task_ids: int[B], for stacks with a prompt.
    """
    del behind, task_ids
    embeds, mask = opened(start, encoded)
    return Prefix(*at_the_end(mask, embeds, mask))

  def stack(self, h, mask, size, position, deterministic, enter=None):
    """Runs the layers.

    Args:
      h: float32[B,Q,H], embedded.
      mask: bool[B,J], which keys are real.
      size: S, positions of the prefix.
      position: that of the first of h while decoding step by step, over a
        cache of J positions; None is a pass over all of them.
      enter: as of `Encoder.stack`.
    Returns: float32[B,Q,H].
    """
    keys = jnp.arange(mask.shape[1])
    queries = jnp.arange(h.shape[1])
    queries += 0 if position is None else position
    ends = jnp.maximum(queries, size - 1)  # the last key that each sees
    allowed = (keys[None, :] <= ends[:, None])[None, None]
    allowed &= mask[:, None, None, :]
    bias = self.relpos_bias(queries, keys)
    h = self.dropout(h, deterministic)
    for number, layer in enumerate(self.layers):
      h = enter(number, h) if enter else h
      h = layer(h, allowed, bias, position, deterministic)
    return self.dropout(self.decoder_norm(h), deterministic)

  def __call__(self, embeds, mask, encoded, task_ids=None, deterministic=True):
    """Embedded targets [R,U,H], shifted -> states [R,U,H], see `T5.states`.

    Neighbours that share an input have it in their row each.
    """
    times = len(embeds) // len(encoded.mask)
    encoded = type(encoded)(*(jnp.repeat(x, times, axis=0) for x in encoded))
    behind = embeds.shape[1] - 1  # the start token stands in the prefix
    prefix = self.prefix(embeds[:, :1], encoded, behind, task_ids)
    h = jnp.concatenate([prefix.embeds, embeds[:, 1:]], axis=1)
    real = jnp.concatenate([prefix.mask, mask[:, 1:]], axis=1)
    size = prefix.mask.shape[1]
    h = self.stack(h, real, size, None, deterministic, prefix.enter)
    return h[:, size - 1 :]

  def start(self, embeds, encoded, length, task_ids=None, decodes=None):
    """Fills the caches with the prefix, for `length` steps.

    Its last position is where the first step stands: the position goes back
    to it, and its embedding is kept to be the input of that step.
    """
    del decodes  # every row has caches of its own
    prefix = self.prefix(embeds, encoded, 0, task_ids)
    size = prefix.mask.shape[1]
    behind = ((0, 0), (0, length - 1))
    mask = jnp.pad(prefix.mask, behind, constant_values=True)
    position, mask = self.cursor(size, mask)
    self.last(prefix.embeds[:, -1:])
    self.stack(prefix.embeds, mask, size, position, True, prefix.enter)
    self.cursor.rewind(size - 1)

  def step(self, embeds, length, encoded=None):
    """One step: embeds [R,1,H] -> states [R,1,H].

    The first is given the start token and takes the end of the prefix.
    """
    del encoded  # is in the caches
    position, mask = self.cursor(1, None)
    size = mask.shape[1] - length + 1
    h = jnp.where(position == size - 1, self.last(embeds), embeds)
    return self.stack(h, mask, size, position, True)
