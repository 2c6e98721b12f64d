"""`IA3`: every feature of a site times a learned number.

    y' = y * scale                                   scale [F], 1 at first

Source: Liu et al. 2022, section 3.3: keys and values of every attention and
the hidden units of every MLP.
Departures: one vector [N K] over all heads where the released code of Lester
et al. has a table [N,K]; the numbers are the same.
"""

import flax.linen as nn

from prompt_jax.typing import Array, Float


class IA3(nn.Module):
  """A learned scale [F] of what a site produced."""

  # y' is linear in (y, x): it folds into the kernel that made y.
  linear = True
  # Feature by feature, x unread: it folds into the kernel that reads y too.
  elementwise = True

  @nn.compact
  def __call__(
    self, y: Float[Array, 'B T F'], x: Array | None
  ) -> Float[Array, 'B T F']:
    """Args: y [B,T,F]; x unread."""
    del x
    scale = self.param('scale', nn.initializers.ones, y.shape[-1:])
    return y * scale[None, None]
