"""`Mask`: switches chosen features of a site off.

    y' = y * mask                       mask [F], 1 at first: the identity

At `.*/mlp/hidden` it takes neurons of an MLP away: with a mask of 0 the MLP
adds nothing to the residual stream. The mask is a parameter,
`<site>_insert/mask`, so that another one costs no compilation; it is meant to
stay frozen.
Source: Su et al. 2022, released code of version 2.0, masked neurons.
Departures: after the activation in every model; there it is before it in T5,
where 0 comes to the same with a ReLU.
"""

import flax.linen as nn

from prompt_jax.typing import Array, Float


class Mask(nn.Module):
  """A factor [F] on what a site produced, usually of 0 and 1."""

  # As IA3's scale, whose place in a kernel it could take.
  linear = True
  elementwise = True

  @nn.compact
  def __call__(
    self, y: Float[Array, 'B T F'], x: Array | None
  ) -> Float[Array, 'B T F']:
    """Args: y [B,T,F]; x unread."""
    del x
    mask = self.param('mask', nn.initializers.ones, y.shape[-1:])
    return y * mask[None, None]
