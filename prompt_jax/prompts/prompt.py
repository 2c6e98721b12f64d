"""`Prompt`: one table of rows that stands in front of every input.

    out[b] = prompt                                  [P,H], trained

Source: Lester et al. 2021, section 2. Departures: none.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.prompts import initializers
from prompt_jax.typing import Array, Float


class Prompt(nn.Module):
  """A prompt [P,H] shared by all examples.

  Args:
    length: P, positions put in front of the input.
    init: `(rng, (P, H)) -> [P,H]`; None is the released code's U[0, 0.5).
  """

  length: int = 100
  init: Callable | None = None

  instance_wise = False
  num_tasks = 1

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B] and mask unread; embeds [B,T,H] for its shape."""
    del task_ids, mask
    init = self.init or initializers.uniform_released()
    # The width has a name of its own: no rule shards it, so that any host
    # can save a prompt whole.
    prompt = self.param(
      'prompt',
      nn.with_logical_partitioning(init, ('prompt', 'prompt_embed')),
      (self.length, embeds.shape[-1]),
    )
    return jnp.broadcast_to(prompt[None], (embeds.shape[0], *prompt.shape))
