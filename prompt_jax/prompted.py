"""The PromptX layers: `t5/` with a prompt source in front of a stack.

    embeds -> source -> place -> layers -> output x mask

The source sits at `encoder/prompt` (or `decoder/prompt`); every other
parameter path is that of the plain model, so that any base fits. The length
of a prompt is said once, in its source, and read off what it returns; the
mask travels with the embeddings. A prompt of depth D is D times as long and
cut into slices, one for each of the first D layers, see `prompts.depth`.
A model without encoder layers is decoder-only: its prompt, at `decoder/prompt`,
stands before the start token and reads the input alone.
Source: Lester et al. 2021, section 2; Liu et al. 2022 (P-tuning v2) for depth.
"""

from collections.abc import Callable, Collection

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.prompts.depth import cut, entering
from prompt_jax.prompts.place import Placed, encoder_attention, place
from prompt_jax.t5.decoder_only import DecoderOnly, Prefix, at_the_end, opened
from prompt_jax.t5.t5 import T5, Decoder, Encoder

# Makes a source module; a factory, so that the layer owns what it makes.
SourceFactory = Callable[[], nn.Module]


class PromptEncoder(Encoder):
  """The encoder with a prompt among its input.

  Args:
    source: factory of the prompt source.
    where: 'prefix', 'after_bos', 'before_eos' or 'after_eos'.
    attention: None (every position sees every real one), or the names of the
      relations that are allowed between prompt and input, see
      `prompts.place`.
    depth: D, layers with a prompt of their own.
    deeper: what layers after the first do with theirs, 'overwrite' or 'add'.
  Raises: UserError, when called, if the configuration has no encoder layers.
  """

  source: SourceFactory | None = None
  where: str = 'prefix'
  attention: Collection[str] | None = None
  depth: int = 1
  deeper: str = 'overwrite'

  def setup(self):
    super().setup()
    self.prompt = self.source()

  def __call__(self, embeds, mask, task_ids=None, deterministic=True):
    """Embedded input [B,T,H] -> Encoded over P+T positions."""
    if not self.config.num_encoder_layers:
      raise UserError(
        'A prompt of the encoder was given to a model of '
        'NUM_ENCODER_LAYERS=0; expected one with an encoder. This one is '
        'decoder-only: use methods/prompt_decoder.gin.'
      )
    rows = self.prompt(_ids(task_ids, embeds), embeds, mask)
    first, *rest = cut(rows, self.depth)
    placed = place(first, embeds, mask, self.where)
    allowed = encoder_attention(placed.mask, placed.is_prompt, self.attention)
    enter = entering(rest, placed.is_prompt, self.deeper)
    return self.stack(placed.embeds, placed.mask, allowed, deterministic, enter)


class PromptDecoder(Decoder):
  """The decoder with a prompt before the start token.

  Later positions see the whole prompt; states are those of the targets only.

  Args: as `PromptEncoder`.
  Raises: UserError, when used, for a source that reads its input: that would
    be the targets in training, and the start token alone in decoding.
  """

  source: SourceFactory | None = None
  depth: int = 1
  deeper: str = 'overwrite'

  def setup(self):
    super().setup()
    self.prompt = self.source()
    if self.prompt.instance_wise:
      raise UserError(
        f'{type(self.prompt).__name__} reads the input of its stack, which in '
        'a decoder are the targets; expected a source that reads task ids '
        'alone as decoder_prompt. Give it as encoder_prompt.'
      )

  def __call__(self, embeds, mask, encoded, task_ids=None, deterministic=True):
    """Embedded targets [R,U,H] -> states [R,U,H], see `T5.states`."""
    rows = self.prompt(_ids(task_ids, embeds), embeds, mask)
    first, *rest = cut(rows, self.depth)
    placed = place(first, embeds, mask)
    enter = entering(rest, placed.is_prompt, self.deeper)
    y = self.stack(
      placed.embeds, placed.mask, encoded, deterministic, enter=enter
    )
    return y[:, first.shape[1] :]

  def start(self, embeds, encoded, length, task_ids=None, decodes=None):
    """Fills the caches with the prompt; the first step is position P."""
    mask = jnp.ones(embeds.shape[:2], bool)
    rows = self.prompt(_ids(task_ids, embeds), embeds, mask)
    first, *rest = cut(rows, self.depth)
    enter = entering(rest, jnp.ones(first.shape[:2], bool), self.deeper)
    length += first.shape[1]
    self.stack(first, None, encoded, True, length, enter, decodes)

  def step(self, embeds, length, encoded=None):
    """One step over a cache of P + `length` positions."""
    length += self.prompt.length // self.depth
    return super().step(embeds, length, encoded)


class PromptDecoderOnly(DecoderOnly):
  """The stack of a decoder-only model with a prompt in front of the prefix.

      [ padding | p_0 .. p_P-1  0  x_0 .. x_n-1 | y_0  y_1 .. ]

  The prompt is part of the prefix: it sees the input and itself, all see it.
  Its source reads the input, never a target.

  Args: as `PromptDecoder`.
  Source: released code of Lester et al. 2021, decoder-only layers and masks.
  """

  source: SourceFactory | None = None
  depth: int = 1
  deeper: str = 'overwrite'

  def setup(self):
    super().setup()
    self.prompt = self.source()

  def prefix(self, start, encoded, behind, task_ids=None) -> Prefix:
    """As of the plain stack, over P more positions."""
    ids = _ids(task_ids, encoded.states)
    rows = self.prompt(ids, encoded.states, encoded.mask)
    first, *rest = cut(rows, self.depth)
    placed = place(first, *opened(start, encoded))
    placed = Placed(*at_the_end(placed.mask, *placed))
    is_prompt = jnp.pad(placed.is_prompt, ((0, 0), (0, behind)))
    enter = entering(rest, is_prompt, self.deeper)
    return Prefix(placed.embeds, placed.mask, enter)


class PromptEncoderDecoder(T5):
  """T5 with a prompt in its encoder, its decoder, both or neither.

  Without encoder layers it is decoder-only, see `PromptDecoderOnly`.

  Args:
    encoder_prompt: factory of the encoder's source, or None.
    decoder_prompt: factory of the decoder's source, or None.
    where: where the encoder's prompt stands, see `PromptEncoder`.
    attention: what the encoder's prompt and input see, see `PromptEncoder`.
    encoder_depth, decoder_depth: layers of each stack with a prompt of their
      own, at most as many as it has.
    deeper: what layers after the first do with theirs, 'overwrite' or 'add'.
  Raises: UserError, when used, for a depth beyond the stack.
  """

  encoder_prompt: SourceFactory | None = None
  decoder_prompt: SourceFactory | None = None
  where: str = 'prefix'
  attention: Collection[str] | None = None
  encoder_depth: int = 1
  decoder_depth: int = 1
  deeper: str = 'overwrite'

  def make_encoder(self) -> nn.Module:
    if self.encoder_prompt is None:
      return super().make_encoder()
    _check_depth('encoder', self.encoder_depth, self.config.num_encoder_layers)
    return PromptEncoder(
      self.config,
      self.inserts,
      self.encoder_prompt,
      self.where,
      self.attention,
      self.encoder_depth,
      self.deeper,
    )

  def make_decoder(self) -> nn.Module:
    if self.decoder_prompt is None:
      return super().make_decoder()
    _check_depth('decoder', self.decoder_depth, self.config.num_decoder_layers)
    only = not self.config.num_encoder_layers
    stack = PromptDecoderOnly if only else PromptDecoder
    return stack(
      self.config,
      self.inserts,
      self.decoder_prompt,
      self.decoder_depth,
      self.deeper,
    )

  def prompt_rows(self, task_ids):
    """What the sources make of each task: {'encoder': [M,P,H], ...}.

    Only for sources that are not instance-wise: they read no input.
    """
    embeds = jnp.zeros((task_ids.shape[0], 1, self.config.d_model))
    mask = jnp.ones(embeds.shape[:2], bool)
    stacks = {'encoder': self.encoder, 'decoder': self.decoder}
    return {
      name: stack.prompt(task_ids, embeds, mask)
      for name, stack in stacks.items()
      if getattr(self, f'{name}_prompt') is not None
    }


def _check_depth(stack: str, depth: int, layers: int) -> None:
  """Raises unless every layer that is to have a prompt is there."""
  if depth > max(layers, 1):
    raise UserError(
      f'{stack}_depth is {depth} and the {stack} has {layers} layers; expected '
      f'at most {layers}, one prompt a layer. Set PROMPT_DEPTH={layers}.'
    )


def _ids(task_ids, embeds):
  """Task ids, all 0 where the caller has none (one task)."""
  if task_ids is None:
    return jnp.zeros(embeds.shape[0], jnp.int32)
  return task_ids
