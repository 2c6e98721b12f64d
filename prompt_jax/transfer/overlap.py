"""ON: the overlap of the neurons that two prompts activate.

    active = activation > 0
    ON(a, b) = |a and b| / sqrt(|a| |b|)             over layers and neurons

The cosine of two 0/1 vectors; 0 where one is empty. Two independent patterns
of densities d, e are expected to reach sqrt(d e), which is said beside it.
Source: Su et al. 2022, section 5.1: the last three layers.
Departures: the level of chance is not there.
"""

from collections.abc import Sequence

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Bool, Float

LAST = 3  # layers, as the paper reports


def active(values: Float[Array, 'S L F']) -> Bool[Array, 'S L F']:
  """Where an activation is above 0; the values are not changed."""
  return np.asarray(values) > 0


def chosen(layers: int, asked: Sequence[int] | str | None = None) -> list[int]:
  """The numbers of the layers to compare.

  Args:
    layers: L, how many were recorded.
    asked: numbers from 0; 'all'; None is the last three, or all of fewer.
  Raises: UserError for a layer that was not recorded, or not in order, or for
    one number alone.
  """
  if asked is None:
    return list(range(max(layers - LAST, 0), layers))
  if asked == 'all':
    return list(range(layers))
  if not hasattr(asked, '__len__'):
    raise UserError(
      f'Layers {asked} were asked for; expected a list of numbers, such as '
      f'[0, {layers - 1}]. A share of neurons to mask is given as ratio=.'
    )
  beyond = [n for n in asked if not 0 <= n < layers]
  if beyond or not asked:
    raise UserError(
      f'Layers {list(asked)} were asked for; expected numbers from 0 to '
      f'{layers - 1}, of the {layers} layers that were recorded. Correct '
      '--layers, or leave it out for the last three.'
    )
  if list(asked) != sorted({*asked}):
    raise UserError(
      f'Layers {list(asked)} were asked for; expected each once, in order. '
      f'Use --layers {" ".join(map(str, sorted({*asked})))}.'
    )
  return list(asked)


def overlaps(
  on: Bool[Array, 'S L F'], layers: Sequence[int] | str | None = None
) -> np.ndarray:
  """ON of every pair.

  Args:
    on: which neurons are active, one [L,F] a prompt.
    layers: see `chosen`.
  Returns: float64[S,S], symmetric, 1 on its diagonal unless nothing is active.
  """
  rows = _rows(on, layers)
  count = rows.sum(axis=1)
  both = np.sqrt(count[:, None] * count[None])  # [S,S]
  shared = rows @ rows.T
  return np.divide(shared, both, out=np.zeros_like(shared), where=both > 0)


def chance(
  on: Bool[Array, 'S L F'], layers: Sequence[int] | str | None = None
) -> np.ndarray:
  """ON that independent patterns of these densities are expected to have.

  sqrt(d_i d_j), d the share of active neurons.
  Returns: float64[S,S].
  """
  density = _rows(on, layers).mean(axis=1)
  return np.sqrt(density[:, None] * density[None])


def by_layer(on: Bool[Array, 'S L F']) -> np.ndarray:
  """ON of every pair in each layer alone, float64[L,S,S]."""
  return np.stack([overlaps(on, [n]) for n in range(np.shape(on)[1])])


def raw_cosine(one: Float[Array, 'L F'], other: Float[Array, 'L F']):
  """cos of the activations themselves, layer by layer.

  Returns: float64[L].
  Source: released code of Su et al. 2022, version 2.0, its similarity.
  """
  one, other = (np.asarray(x, np.float64) for x in (one, other))
  # 1e-8: PyTorch's cosine
  norm = lambda x: np.maximum(np.linalg.norm(x, axis=1), 1e-8)
  return (one * other).sum(axis=1) / (norm(one) * norm(other))


def _rows(on, layers) -> np.ndarray:
  """[S, layers x F] of 0.0 and 1.0."""
  on = np.asarray(on, bool)
  if on.ndim != 3:
    raise UserError(
      f'The active neurons are {list(on.shape)}; expected [prompts, layers, '
      'neurons]. Take one position of each recording.'
    )
  kept = on[:, chosen(on.shape[1], layers)]
  return kept.reshape(len(on), -1).astype(np.float64)
