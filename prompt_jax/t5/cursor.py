"""Where step by step decoding stands, kept in the cache beside the keys."""

import flax.linen as nn
import jax.numpy as jnp


class Cursor(nn.Module):
  """The position of the next step, and which positions before it are real."""

  @nn.compact
  def __call__(self, steps: int, mask):
    """Moves on by `steps`; returns (position of the first, mask bool[R,T]).

    `mask` is read by the first call only, which keeps it in the cache.
    """
    position = self.variable('cache', 'position', jnp.zeros, (), jnp.int32)
    seen = self.variable('cache', 'mask', lambda: mask)
    start = position.value
    position.value = start + steps
    return start, seen.value

  def rewind(self, position: int = 0):
    """Back to a position; the caches stay."""
    self.put_variable('cache', 'position', jnp.full((), position, jnp.int32))
