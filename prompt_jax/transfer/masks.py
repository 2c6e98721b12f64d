"""Masks of neurons: which to take away, so many of all layers together.

    own      the int(ratio L F) largest activations of a prompt
    random   as many at random, the control
    other    those of another task's prompt

By value over all layers jointly: a layer with large activations loses more.
Source: Su et al. 2022, section 6, and its released code, version 2.0.
Departures: the random control, of which that code has none.
"""

from collections.abc import Sequence

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.transfer import overlap
from prompt_jax.typing import Array, Float


def count(ratio: float, shape: tuple[int, ...]) -> int:
  """int(ratio x number of neurons).

  Raises: UserError for a ratio outside [0, 1].
  """
  if not 0 <= ratio <= 1:
    raise UserError(
      f'The share of neurons to mask is {ratio}; expected a number from 0 to '
      '1, such as 0.2. Correct --ratios.'
    )
  return int(ratio * int(np.prod(shape)))


def largest(values: Float[Array, 'L F'], ratio: float) -> np.ndarray:
  """0 at the largest activations, 1 elsewhere.

  Args: values: activations [L,F]; ratio: share of all L F to take away.
  Returns: float32[L,F]; of equal values the earlier ones go first.
  """
  values = np.asarray(values)
  order = np.argsort(-values.reshape(-1), kind='stable')
  return _without(order, ratio, values.shape)


def random(
  shape: tuple[int, int], ratio: float, seed: int | Sequence[int] = 0
) -> np.ndarray:
  """As many zeros as `largest` at random places, float32[L,F]."""
  order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
  return _without(order, ratio, shape)


def within(
  mask: Float[Array, 'L F'], layers: Sequence[int] | None
) -> np.ndarray:
  """A mask in some layers, 1 in the others.

  Args: mask: float32[L,F]; layers: numbers from 0, in order; None is all.
  Returns: float32[L,F].
  Raises: UserError for a layer that is not there.
  """
  asked = overlap.chosen(len(mask), 'all' if layers is None else layers)
  made = np.ones_like(mask)
  made[asked] = mask[asked]
  return made


def _without(order, ratio, shape) -> np.ndarray:
  mask = np.ones(int(np.prod(shape)), np.float32)
  mask[order[: count(ratio, shape)]] = 0
  return mask.reshape(shape)
