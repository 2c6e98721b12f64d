"""The rows of a source that reads no input: one prompt a task."""

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.typing import Array, Float


def by_task(source: nn.Module, embeds) -> Float[Array, 'M P H']:
  """What a source makes of each of its tasks.

  Args:
    source: a bound source that is not instance-wise.
    embeds: [B,T,H], for its width and dtype.
  Returns: [M,P,H].
  """
  ids = jnp.arange(source.num_tasks, dtype=jnp.int32)
  nothing = jnp.zeros((len(ids), 1, embeds.shape[-1]), embeds.dtype)
  return source(ids, nothing, jnp.ones((len(ids), 1), bool))
