"""Prompts of depth: a slice of a longer prompt for each of several layers.

    rows [B,D P,H] = slice 0 | slice 1 | .. | slice D-1       each [B,P,H]
    slice 0 goes among the input; before layer l = 1 .. D-1, where a position
    is prompt:    overwrite: h = slice l        add: h = h + slice l

Sources and export are unaware of it: to them the prompt is D P long.
Source: Liu et al. 2022 (P-tuning v2), section 3; released code of Lester et
al. 2021, extended per-layer prompts. Departures: that code has a further
table for the first layer, which overwrites the input's or is added to it.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Bool, Float

DEEPER = ('overwrite', 'add')


def rows_of(length: int, depth: int) -> int:
  """Rows of a source whose prompt is P = `length` long in D = `depth` layers.

  Gin has no products; its files bind the length of a source to this.
  """
  return length * depth


def cut(rows: Float[Array, 'B Q H'], depth: int) -> list[Array]:
  """The slices [B,P,H] of a prompt, Q = D P.

  Raises: UserError unless the depth divides Q.
  """
  if depth < 1 or rows.shape[1] % depth:
    raise UserError(
      f'A prompt of {rows.shape[1]} rows cannot be cut for {depth} layers; '
      'expected as many rows for each. Set the length of its source to a '
      'multiple of the depth (prompts.depth.rows_of).'
    )
  return jnp.split(rows, depth, axis=1)


def entering(
  slices: Sequence[Array], is_prompt: Bool[Array, 'B J'], deeper: str
) -> Callable | None:
  """What stands at prompt positions before each layer.

  Args:
    slices: [B,P,H] of layers 1, 2, ...; layers after them change nothing.
    is_prompt: bool[B,J], P positions a row.
    deeper: 'overwrite' or 'add'.
  Returns: `(layer number, h float[B,J,H]) -> h`, or None without slices.
  Raises: UserError if `deeper` is unknown.
  """
  if deeper not in DEEPER:
    raise UserError(
      f'A deeper layer cannot {deeper!r} its prompt; expected one of {DEEPER}. '
      f'Nearest: {params.nearest(str(deeper), DEEPER, 1)[0]!r}.'
    )
  if not slices:
    return None
  # number of the prompt row that stands at each position
  row = jnp.clip(jnp.cumsum(is_prompt, axis=1) - 1, 0)[:, :, None]

  def enter(number, h):
    if not 1 <= number <= len(slices):
      return h
    own = slices[number - 1].astype(h.dtype)
    own = jnp.take_along_axis(own, row, axis=1)
    own = own + h if deeper == 'add' else own
    return jnp.where(is_prompt[:, :, None], own, h)

  return enter
