"""Where a prompt stands in the input, and who may attend to whom.

    prefix       [p_0 .. p_P-1  x_0 x_1 .. x_n-1  pad]
    after_bos    [x_0  p_0 .. p_P-1  x_1 .. x_n-1  pad]
    before_eos   [x_0 x_1 ..  p_0 .. p_P-1  x_n-1  pad]
    after_eos    [x_0 x_1 .. x_n-1  p_0 .. p_P-1  pad]

n is the number of real tokens of each row. The mask travels with the
embeddings; `is_prompt` says which positions are prompt, so that attention
rules hold for any placement.
Source: Lester et al. 2021, section 2, and its released code.
"""

from collections.abc import Collection
from typing import NamedTuple

import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Bool, Float, Int

WHERE = ('prefix', 'after_bos', 'before_eos', 'after_eos')

# Relations `query->key` that an attention rule may allow.
ATTENTION = (
  'input->input',
  'input->prompt',
  'prompt->prompt',
  'prompt->prompt;causal',
  'prompt->input',
)


class Placed(NamedTuple):
  """An input with a prompt among it."""

  embeds: Float[Array, 'B J H']
  mask: Bool[Array, 'B J']
  is_prompt: Bool[Array, 'B J']


def place(
  prompt: Float[Array, 'B P H'],
  embeds: Float[Array, 'B T H'],
  mask: Bool[Array, 'B T'],
  where: str = 'prefix',
) -> Placed:
  """Puts a prompt among the input and extends the mask with it.

      out[b] = concat(embeds[b,:s], prompt[b], embeds[b,s:])
      s = 0 | 1 | n_b - 1 | n_b        n_b = sum(mask[b])

  Args:
    prompt: float[B,P,H], cast to the dtype of `embeds`.
    embeds: float[B,T,H], embedded input (pad positions included).
    mask: bool[B,T], true where the input is real. Real tokens come first;
      a decoder's start token is real although its id is 0.
    where: one of `WHERE`, in the order of s above.
  Returns: Placed, each over J = P+T positions; padding stays last.
  Raises: UserError if `where` is unknown or the shapes do not fit.
  Source: Lester et al. 2021, section 2 (prefix); the rest released code.
  Departures: the suffix placements read the mask, not token ids.
  """
  rows, length, width = embeds.shape
  if prompt.shape[::2] != (rows, width) or mask.shape != (rows, length):
    raise UserError(
      f'Cannot place a prompt {list(prompt.shape)} in an input '
      f'{list(embeds.shape)} with a mask {list(mask.shape)}; expected '
      f'[{rows}, P, {width}] and [{rows}, {length}]. A prompt fits only '
      'models of the width it was made for.'
    )
  start = _start(mask, where)
  size = prompt.shape[1]
  position = jnp.arange(size + length)[None, :]  # [1,J]
  is_prompt = (position >= start) & (position < start + size)  # [B,J]
  before = position < start
  both = jnp.concatenate([prompt.astype(embeds.dtype), embeds], axis=1)
  real = jnp.concatenate([jnp.ones(prompt.shape[:2], bool), mask], axis=1)
  if where == 'prefix':  # already in order: spares the commonest case a gather
    return Placed(both, real, is_prompt)
  # row of `both` that stands at each position
  source = jnp.where(
    is_prompt, position - start, position + jnp.where(before, size, 0)
  )
  return Placed(
    jnp.take_along_axis(both, source[:, :, None], axis=1),
    jnp.take_along_axis(real, source, axis=1),
    is_prompt,
  )


def encoder_attention(
  mask: Bool[Array, 'B J'],
  is_prompt: Bool[Array, 'B J'],
  allowed: Collection[str] | None = None,
) -> Bool[Array, 'B 1 J J']:
  """Which key each query of an encoder may attend to.

      None:   out[b,0,i,j] = mask[b,i] and mask[b,j]
      names:  the same, less the relations that are not named

  Input always sees input and prompt. Among prompt positions
  'prompt->prompt;causal' (each sees the earlier ones and itself) wins over
  'prompt->prompt' (all); with neither each sees itself only.

  Args:
    mask: bool[B,J], true where a position is real (prompt included).
    is_prompt: bool[B,J].
    allowed: None, or names out of `ATTENTION`; left unchanged.
  Returns: bool[B,1,J,J], rows are queries; all false in a padded row.
  Raises: UserError if a name is unknown.
  Source: released code of Lester et al. 2021, extended masks.
  Departures: None is full visibility, as in the paper; the released code
    makes prompts causal among themselves there.
  """
  if allowed is None:
    return _pairs(mask, mask)[:, None]
  names = _names(allowed)
  return _related(mask & ~is_prompt, is_prompt, names)[:, None]


def decoder_attention(
  mask: Bool[Array, 'B J'],
  is_prompt: Bool[Array, 'B J'],
  allowed: Collection[str] | None = None,
  causal_attention: Bool[Array, 'B T'] | Int[Array, 'B T'] | None = None,
) -> Bool[Array, 'B 1 J J']:
  """Which key each query of a decoder-only model may attend to.

      out[i,j] = (j <= i or seen_i and seen_j) and mask_i and mask_j
      seen     = is_prompt or causal_attention

  With names in `allowed`, prompt queries lose the term j <= i and `seen_i and
  seen_j` becomes the encoder's rule over the seen positions.

  Args:
    mask: bool[B,J], true where a position is real (prompt included).
    is_prompt: bool[B,J].
    allowed: None, or names out of `ATTENTION`; left unchanged. Without
      `causal_attention` there is no prefix that they could speak of: the
      result is then causal whatever they are.
    causal_attention: [B,T] over the positions that are not prompt, true on
      the inputs of a prefix language model; None is causal everywhere.
  Returns: bool[B,1,J,J], rows are queries.
  Raises: UserError if a name is unknown.
  Source: released code of Lester et al. 2021, masks and extended masks.
  Departures: None is allowed (the released code fails on it).
  """
  names = None if allowed is None else _names(allowed)
  ahead = jnp.arange(mask.shape[1])
  causal = (ahead[None, :] <= ahead[:, None])[None]  # [1,J,J]
  real = _pairs(mask, mask)
  if causal_attention is None:
    return (causal & real)[:, None]
  # number of the input token that stands at each position
  token = jnp.maximum(jnp.cumsum(~is_prompt, axis=1) - 1, 0)
  inputs = jnp.take_along_axis(causal_attention > 0, token, axis=1)
  inputs &= ~is_prompt
  if names is None:
    seen = inputs | is_prompt
    return ((causal | _pairs(seen, seen)) & real)[:, None]
  among = _related(inputs, is_prompt, names)
  causal &= ~is_prompt[:, :, None]
  return ((causal | among) & real)[:, None]


def _start(mask, where):
  """Index [B,1] of the first prompt position of each row."""
  if where in ('prefix', 'after_bos'):
    return jnp.full((mask.shape[0], 1), WHERE.index(where), jnp.int32)
  if where not in WHERE:
    raise UserError(
      f'A prompt cannot be placed {where!r}; expected one of {WHERE}. '
      f'Nearest: {params.nearest(where, WHERE, 1)[0]!r}.'
    )
  count = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32)
  # a row that only pads the batch has no EOS to stand before
  return jnp.maximum(count - 1, 0) if where == 'before_eos' else count


def _names(allowed):
  """The allowed relations as a set of our own, checked."""
  names = {allowed} if isinstance(allowed, str) else set(allowed)
  unknown = sorted(names - set(ATTENTION))
  if unknown:
    close = params.nearest(unknown[0], ATTENTION, 1)[0]
    raise UserError(
      f'Attention between prompt and input does not know {unknown}; expected '
      f'names out of {ATTENTION}. Nearest to {unknown[0]!r}: {close!r}.'
    )
  return names


def _pairs(queries, keys):
  """[B,J] x [B,J] -> [B,J,J], true where both are."""
  return queries[:, :, None] & keys[:, None, :]


def _related(inputs, is_prompt, names):
  """[B,J,J]: what the named relations let inputs and prompt positions see."""
  order = jnp.arange(inputs.shape[1])
  among = _pairs(is_prompt, is_prompt)
  if 'prompt->prompt;causal' in names:
    among &= (order[None, :] <= order[:, None])[None]
  elif 'prompt->prompt' not in names:
    among &= jnp.eye(inputs.shape[1], dtype=bool)[None]
  related = _pairs(inputs, inputs | is_prompt) | among
  if 'prompt->input' in names:
    related |= _pairs(is_prompt, inputs)
  return related
