"""T5: encoder, decoder and the model of both; it knows nothing of prompts.

    tokens -> embedding -> encoder layers -> norm ->+
    targets, shifted -> embedding -> decoder layers -> norm -> logits

Pre-norm layers: h + attention(norm(h)), then h + mlp(norm(h)).
Source: Raffel et al. 2020; T5 1.1 differs in the MLP and the output matrix.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.t5.absorb import absorbs
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.cursor import Cursor
from prompt_jax.t5.decoder_only import DecoderOnly
from prompt_jax.t5.layers import (
  MLP,
  Attention,
  Dense,
  Dropout,
  Embed,
  RelativePositionBias,
  RMSNorm,
)
from prompt_jax.t5.sites import Inserts, changes_keys, rows_ahead
from prompt_jax.typing import Array


class Encoded(NamedTuple):
  """What the decoder reads of the input: states and where they are real."""

  states: Array  # float32[B,T,H]
  mask: Array  # bool[B,T]


def _rematted(layer: type[nn.Module], config: T5Config) -> type[nn.Module]:
  """The layer class, recomputing its activations if the setting says so."""
  if config.remat == 'none':
    return layer
  # `deterministic` is the last argument and decides what is traced.
  last = {EncoderLayer: 4, DecoderLayer: 8}[layer]
  return nn.remat(layer, prevent_cse=False, static_argnums=(last,))


class EncoderLayer(nn.Module):
  """Self attention and MLP, each with its norm and residual."""

  config: T5Config
  inserts: Inserts = ()

  @nn.compact
  def __call__(self, h, allowed, bias, deterministic=True):
    """float32[B,T,H] -> float32[B,T,H]."""
    c = self.config
    drop = Dropout(c.dropout_rate)
    norm = lambda name: RMSNorm(c.layer_norm_epsilon, name=name)
    x = norm('pre_attention_layer_norm')(h)
    y = Attention(c, self.inserts, name='attention')(
      x, x, allowed, bias, None, deterministic
    )
    h = h + drop(y, deterministic)
    x = norm('pre_mlp_layer_norm')(h)
    y = MLP(c, self.inserts, name='mlp')(x, deterministic)
    return h + drop(y, deterministic)


class DecoderLayer(nn.Module):
  """Self attention, cross attention and MLP, each with norm and residual."""

  config: T5Config
  inserts: Inserts = ()

  @nn.compact
  def __call__(
    self, h, allowed, bias, encoded, cross, position, across, deterministic=True
  ):
    """float32[B,U,H] -> float32[B,U,H].

    `position` is that of self attention; `across` of cross attention, None
    where no cache holds its keys and values.
    """
    c = self.config
    drop = Dropout(c.dropout_rate)
    norm = lambda name: RMSNorm(c.layer_norm_epsilon, name=name)
    x = norm('pre_self_attention_layer_norm')(h)
    y = Attention(c, self.inserts, name='self_attention')(
      x, x, allowed, bias, position, deterministic
    )
    h = h + drop(y, deterministic)
    x = norm('pre_cross_attention_layer_norm')(h)
    y = Attention(c, self.inserts, name='encoder_decoder_attention')(
      x, encoded, cross, None, across, deterministic
    )
    h = h + drop(y, deterministic)
    x = norm('pre_mlp_layer_norm')(h)
    y = MLP(c, self.inserts, c.decoder_d_ff, name='mlp')(x, deterministic)
    return h + drop(y, deterministic)


class Encoder(nn.Module):
  """The encoder stack over embedded inputs."""

  config: T5Config
  inserts: Inserts = ()

  def setup(self):
    c = self.config
    layer = _rematted(EncoderLayer, c)
    self.relpos_bias = RelativePositionBias(c, bidirectional=True)
    self.layers = [layer(c, self.inserts) for _ in range(c.num_encoder_layers)]
    self.encoder_norm = RMSNorm(c.layer_norm_epsilon)
    self.dropout = Dropout(c.dropout_rate)

  def stack(self, h, mask, allowed, deterministic: bool, enter=None) -> Encoded:
    """Runs the layers.

    Args:
      h: float32[B,T,H], embedded.
      mask: bool[B,T], True where real.
      allowed: bool, broadcastable to [B,1,T,T].
      enter: `(layer number, h) -> h` before each layer; None changes nothing.
    Returns: Encoded; states are exactly 0 where `mask` is False.
    """
    positions = jnp.arange(h.shape[1])
    ahead = rows_ahead(self.inserts, 'encoder', len(self.layers))
    bias = self.relpos_bias(positions, jnp.arange(-ahead, h.shape[1]))
    h = self.dropout(h, deterministic)
    for number, layer in enumerate(self.layers):
      h = enter(number, h) if enter else h
      h = layer(h, allowed, bias, deterministic)
    h = self.dropout(self.encoder_norm(h), deterministic)
    return Encoded(h * mask[:, :, None], mask)

  def __call__(self, embeds, mask, task_ids=None, deterministic=True):
    """Embedded input -> Encoded; encoders with prompts read `task_ids`."""
    del task_ids
    return self.stack(embeds, mask, mask[:, None, None, :], deterministic)


class NoEncoder(nn.Module):
  """Stands where a model without encoder layers would have its encoder."""

  def __call__(self, embeds, mask, task_ids=None, deterministic=True):
    """Embedded input -> Encoded, as it is but 0 where it is padding."""
    del task_ids, deterministic
    return Encoded(embeds * mask[:, :, None], mask)


class Decoder(nn.Module):
  """The decoder stack over embedded targets, with the output matrix."""

  config: T5Config
  inserts: Inserts = ()

  def setup(self):
    c = self.config
    layer = _rematted(DecoderLayer, c)
    self.relpos_bias = RelativePositionBias(c, bidirectional=False)
    self.layers = [layer(c, self.inserts) for _ in range(c.num_decoder_layers)]
    self.decoder_norm = RMSNorm(c.layer_norm_epsilon)
    self.dropout = Dropout(c.dropout_rate)
    self.cursor = Cursor()
    if not c.tied_logits:
      self.logits_dense = Dense(
        c.vocab_size, ('embed', 'vocab'), c.activation_dtype
      )

  def _reads_states(self, length, decodes, seen) -> bool:
    """Whether steps read the encoder's states in place of keys and values."""
    # together the decodes of a row are more queries, but share what they read
    queries = max(length, decodes)
    at = '/'.join((*self.path, 'layers_{}/encoder_decoder_attention'))
    return absorbs(self.config, queries, seen.shape[1]) and not any(
      changes_keys(self.inserts, at.format(i)) for i in range(len(self.layers))
    )

  def stack(
    self,
    h,
    mask,
    encoded,
    deterministic,
    length=None,
    enter=None,
    decodes=None,
  ):
    """Runs the layers: states float32[B,U,H].

    Args:
      h: float32[B,U,H], embedded targets shifted right.
      mask: bool[B,U], True where the target is real; None while decoding.
      encoded: Encoded; None in a decoding step that reads the caches alone.
      length: None, or the length of the cache while decoding step by step.
      enter: as in `Encoder.stack`.
      decodes: None, or how many decodes of each row of `encoded` there are,
        if every decoding step is given it.
    """
    steps = h.shape[1]
    position, across, start, keys = None, None, 0, steps
    context, seen = encoded or (None, None)
    if length is not None:
      position, kept = self.cursor(steps, seen)
      start, keys = position, length
      if not decodes or not self._reads_states(length, decodes, seen):
        across, seen = position, kept
    cross = seen[:, None, None, :]
    queries = start + jnp.arange(steps)
    allowed = (jnp.arange(keys)[None, :] <= queries[:, None])[None, None]
    if mask is not None:
      allowed = allowed & mask[:, None, None, :]
    ahead = rows_ahead(self.inserts, 'decoder', len(self.layers))
    bias = self.relpos_bias(queries, jnp.arange(-ahead, keys))
    h = self.dropout(h, deterministic)
    for number, layer in enumerate(self.layers):
      h = enter(number, h) if enter else h
      h = layer(
        h, allowed, bias, context, cross, position, across, deterministic
      )
    return self.dropout(self.decoder_norm(h), deterministic)

  def __call__(self, embeds, mask, encoded, task_ids=None, deterministic=True):
    """Embedded targets [R,U,H] -> states [R,U,H], see `T5.states`."""
    del task_ids
    return self.stack(embeds, mask, encoded, deterministic)

  def start(self, embeds, encoded, length, task_ids=None, decodes=None):
    """Makes the caches: a pass over no tokens, which the first step follows."""
    del task_ids
    self.stack(embeds[:, :0], None, encoded, True, length, decodes=decodes)

  def step(self, embeds, length, encoded=None):
    """One step: embeds [R,1,H] -> states [R,1,H]."""
    decodes = len(embeds) // len(encoded.mask) if encoded else None
    return self.stack(embeds, None, encoded, True, length, decodes=decodes)


class T5(nn.Module):
  """A model of the T5 family: an encoder-decoder, or decoder-only.

  A configuration without encoder layers makes it the latter: a prefix
  language model, called in the same way.

  Parameters: token_embedder/, encoder/, decoder/ as in T5X; a decoder-only
  model has all under decoder/, as there.
  """

  config: T5Config
  inserts: Inserts = ()

  def make_encoder(self) -> nn.Module:
    if not self.config.num_encoder_layers:
      return NoEncoder()
    return Encoder(self.config, self.inserts)

  def make_decoder(self) -> nn.Module:
    if not self.config.num_encoder_layers:
      return DecoderOnly(self.config, self.inserts)
    return Decoder(self.config, self.inserts)

  def setup(self):
    self.encoder = self.make_encoder()
    self.decoder = self.make_decoder()
    if self.config.num_encoder_layers:
      self.token_embedder = Embed(self.config)
    else:
      self.token_embedder = self.decoder.token_embedder

  def encode(self, encoder_input_tokens, task_ids=None, deterministic=True):
    """int[B,T] (0 = padding), int[B] -> Encoded."""
    return self.encoder(
      self.token_embedder(encoder_input_tokens),
      encoder_input_tokens > 0,
      task_ids,
      deterministic,
    )

  def logits(self, states):
    """States of the decoder [...,H] -> float32[...,V]."""
    if self.config.tied_logits:
      return self.token_embedder.attend(states)
    return self.decoder.logits_dense(states)

  def states(
    self,
    encoded: Encoded,
    decoder_input_tokens,
    decoder_target_tokens,
    task_ids=None,
    deterministic=True,
  ):
    """Teacher-forced states of the decoder, float32[R,U,H].

    Args:
      encoded: of B rows. R is a multiple of B; neighbours share a row, and
        its keys and values are computed once.
      decoder_input_tokens, decoder_target_tokens: int[R,U].
      task_ids: int[R].
      deterministic: no dropout.
    """
    return self.decoder(
      self.token_embedder(decoder_input_tokens),
      # Targets, not inputs: position 0's input is the start token 0.
      decoder_target_tokens > 0,
      encoded,
      task_ids,
      deterministic,
    )

  def decode(self, *args, **options):
    """Teacher-forced logits, float32[R,U,V]. Args: as `states`."""
    return self.logits(self.states(*args, **options))

  def start(
    self,
    encoded: Encoded,
    length: int,
    task_ids=None,
    decodes: int | None = None,
  ):
    """Makes the decoding caches for `length` steps (mutable 'cache').

    Args:
      encoded: of B rows.
      length: most steps.
      task_ids: int[B].
      decodes: how many of each row there will be, if steps are given `encoded`
        too; few enough ones then read it in place of keys and values, which
        are not made.
    """
    tokens = jnp.zeros((encoded.states.shape[0], 1), jnp.int32)
    embeds = self.token_embedder(tokens)
    self.decoder.start(embeds, encoded, length, task_ids, decodes)

  def step(self, tokens, length: int, encoded: Encoded | None = None):
    """int[R,1] -> float32[R,V], reading and writing 'cache'.

    Args:
      tokens: of the step; R is B times the decodes of a row.
      length: as of `start`.
      encoded: of B rows, if `start` was told of decodes.
    """
    y = self.decoder.step(self.token_embedder(tokens), length, encoded)
    return self.logits(y)[:, 0]

  def __call__(
    self,
    encoder_input_tokens,
    decoder_input_tokens,
    decoder_target_tokens,
    task_ids=None,
    deterministic: bool = True,
  ):
    """Teacher-forced logits of a batch, float32[B,U,V]."""
    encoded = self.encode(encoder_input_tokens, task_ids, deterministic)
    return self.decode(
      encoded,
      decoder_input_tokens,
      decoder_target_tokens,
      task_ids,
      deterministic,
    )
