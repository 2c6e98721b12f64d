"""`Record`: a probe that keeps what a site produced and changes nothing.

    y' = y                            y [B,T,F] goes to the collection 'record'

Where it stands decides what is kept: `.*/mlp/hidden` is the hidden layer of an
MLP after its activation (the product, of a gated one), `.*/mlp/wi_0` or
`.*/mlp/wi` is before it, `.*/mlp/wi_1` the linear half.

    model = model.clone(inserts=(*model.inserts, ('.*/mlp/hidden', Record)))
    encoded, state = model.apply(..., method='encode', mutable=['record'])
    recorded(state)         {'encoder/layers_0/mlp/hidden': float32[B,T,F], ...}

Positions are those of the stack, prompt included. What is summed inside one
compiled function is never held for all layers at once. Where nobody asks for
the collection, as in training, nothing is kept.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.typing import Array, Float

COLLECTION = 'record'
_NAME = 'y'


class Record(nn.Module):
  """Keeps what a site produced; without parameters."""

  linear = True  # the identity
  elementwise = True

  @nn.compact
  def __call__(
    self, y: Float[Array, 'B T F'], x: Array | None
  ) -> Float[Array, 'B T F']:
    """Args: y [B,T,F]; x unread."""
    del x
    newest = lambda _, new: new
    self.sow(COLLECTION, _NAME, y, reduce_fn=newest, init_fn=lambda: None)
    return y


def recorded(state: Mapping) -> dict[str, Array]:
  """What the records of one call kept.

  Args:
    state: what `apply(..., mutable=['record'])` returned beside the output.
  Returns: {site path: float32[B,T,F]}, in sorted order of the paths.
  """
  found = {}
  for path, y in params.flatten(state.get(COLLECTION, {})).items():
    at = path.rsplit('/', 2)[0]  # .../mlp/hidden_insert/y
    name = path.rsplit('/', 2)[1].rpartition('_insert')[0]
    found[f'{at}/{name}'] = y
  return found


def mean_over(
  y: Float[Array, 'B T F'],
  mask: Array,
  of: Callable[[Array], Array] = jnp.abs,
) -> Float[Array, 'B F']:
  """Mean of each feature over the real positions of each example.

      m_bf = sum_t mask_bt of(y_btf) / sum_t mask_bt

  Args:
    y: float[B,T,F], as `recorded` gives it.
    mask: bool[B,T], True where a position counts.
    of: what is averaged; the identity gives the signed mean.
  Returns: float32[B,F]; 0 in a row without any position that counts.
  Source: Huang et al. 2022 (FPT), released code, score of a neuron.
  """
  weights = mask.astype(jnp.float32)[:, :, None]  # [B,T,1]
  total = jnp.sum(weights * of(y.astype(jnp.float32)), axis=1)  # [B,F]
  return total / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def at_positions(y: Float[Array, 'B T F'], positions: Array) -> Array:
  """What was kept at chosen positions.

  Args:
    y: float[B,T,F], as `recorded` gives it.
    positions: int[N], the same in every example, or int[B,N].
  Returns: float[B,N,F].
  """
  positions = jnp.asarray(positions)
  if positions.ndim == 1:
    return jnp.take(y, positions, axis=1)
  return jnp.take_along_axis(y, positions[:, :, None], axis=1)
