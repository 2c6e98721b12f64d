"""`TaskPrompts`: one prompt a task, chosen by task id row by row.

    out[b] = prompts[task_ids[b]]                    [M,P,H], trained

Also the prompt bank of mixed-task batches at inference.
Source: Lester et al. 2021, section 7 ("prompt ensembling" batches rows with
different prompts the same way). Departures: none.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_jax.prompts import initializers
from prompt_jax.typing import Array, Float


class TaskPrompts(nn.Module):
  """A table [M,P,H] of prompts, one row a task.

  Args:
    num_tasks: M.
    length: P.
    init: `(rng, (P, H)) -> [P,H]`, called once a task with its own key.
  """

  num_tasks: int = 1
  length: int = 100
  init: Callable | None = None

  instance_wise = False

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B]; embeds [B,T,H] for its width; mask unread."""
    del mask
    init = self.init or initializers.uniform_released()

    def tables(rng, shape):
      keys = jax.random.split(rng, shape[0])
      return jnp.stack([init(key, shape[1:]) for key in keys])

    prompts = self.param(
      'prompts',
      nn.with_logical_partitioning(tables, ('tasks', 'prompt', 'prompt_embed')),
      (self.num_tasks, self.length, embeds.shape[-1]),
    )
    return jnp.take(prompts, task_ids, axis=0)
