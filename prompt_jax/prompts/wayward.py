"""`Wayward`: a prompt that is kept near the text it starts from.

    out[b] = prompt                                     [P,H], trained
    loss  += weight / P sum_(p,h) (prompt - anchor)^2   anchor [P,H], frozen

The text says one thing while the prompt, a little away from it, makes the
model do another. The extra loss is sown into the collection `losses`, which a
training step adds up.
Source: Khashabi et al. 2022, section 3; released code of Lester et al. 2021,
extended wayward prompts. Departures: none.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.prompts import initializers
from prompt_jax.typing import Array, Float


def distance(prompt: Array, anchor: Array) -> Float[Array, '']:
  """1/P sum_(p,h) (prompt - anchor)^2, of two [P,H]."""
  return jnp.mean(jnp.sum(jnp.square(prompt - anchor), axis=-1))


class Wayward(nn.Module):
  """A prompt [P,H] and its anchor.

  Args:
    length: P; with `from_string`, the pieces of the text.
    init: `(rng, (P, H)) -> [P,H]` of the anchor, which the prompt starts as.
    weight: of the distance (0.01 in the released configuration).
  """

  length: int = 100
  init: Callable | None = None
  weight: float = 0.01

  instance_wise = False
  num_tasks = 1

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B] and mask unread; embeds [B,T,H] for its shape."""
    del task_ids, mask
    axes, shape = ('prompt', 'prompt_embed'), (self.length, embeds.shape[-1])
    init = self.init or initializers.uniform_released()
    named = nn.with_logical_partitioning
    anchor = self.param('anchor', named(init, axes), shape)
    same = lambda rng, shape: anchor
    prompt = self.param('prompt', named(same, axes), shape)
    self.sow('losses', 'distance', self.weight * distance(prompt, anchor))
    return jnp.broadcast_to(prompt[None], (embeds.shape[0], *prompt.shape))
