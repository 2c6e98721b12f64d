"""`KeyValues`: learned keys and values ahead of those of an attention.

    y' = [k ; v] rows, then y                   k, v [P, N K] each

They stand at `ahead`, where the plain model has no rows: every query may
attend to them, at the positions -P .. -1 of the stack.
Source: Li and Liang 2021, section 4 (prefix tuning); the initial values are
those of PEFT's PrefixEncoder, N(0, 1).
Departures: no network that the rows come from; they train themselves.
"""

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Float

_init = nn.initializers.normal(1.0)


class KeyValues(nn.Module):
  """P pairs of a key and a value over all heads.

  Args: `length` is P, at least 1.
  Raises: UserError for a length below 1.
  """

  length: int = 20

  linear = False
  is_rows = True
  # The logits are others from the start: attention is shared with the rows.
  neutral = False

  @nn.compact
  def __call__(
    self, y: Float[Array, '1 J 2NK'], x: Array | None
  ) -> Float[Array, '1 J+P 2NK']:
    """Args: y [1,J,2 N K], rows that are there already; x unread."""
    del x
    if self.length < 1:
      raise UserError(
        f'KeyValues got length={self.length}; expected at least 1, at '
        f'{"/".join(self.path)}. Set PROMPT_LENGTH, 20 say.'
      )
    shape = (self.length, y.shape[-1] // 2)
    pair = [self.param(name, _init, shape) for name in ('keys', 'values')]
    return jnp.concatenate([jnp.concatenate(pair, axis=-1)[None], y], axis=1)
