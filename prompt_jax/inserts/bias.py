"""`Bias`: BitFit on T5, whose dense products have no biases to tune.

    y' = y + bias                                    bias [F], 0 at first

methods/bitfit.gin puts one on query, value and out of every attention and on
every matrix of the MLPs. A bias of the keys would add the same number to all
scores of a query, which the softmax cancels: it has no effect, and no place.
Source: Ben Zaken et al. 2022, section 3.
Departures: the biases are new parameters, as in the BitFit baseline of Asai
et al. 2022, and not those of the base; that baseline also gives one to each
layer norm (those before a product are what query, value and wi have here) and
to the output matrix.
"""

import flax.linen as nn

from prompt_jax.typing import Array, Float


class Bias(nn.Module):
  """A learned bias [F] on what a site produced."""

  linear = False  # affine: no kernel can hold it
  elementwise = True

  @nn.compact
  def __call__(
    self, y: Float[Array, 'B T F'], x: Array | None
  ) -> Float[Array, 'B T F']:
    """Args: y [B,T,F]; x unread."""
    del x
    bias = self.param('bias', nn.initializers.zeros, y.shape[-1:])
    return y + bias[None, None]
