"""`Adapter`: a bottleneck network with a skip.

    y' = y + act(y W_down + b_down) W_up + b_up      W_down [F,m], W_up [m,F]

Houlsby et al. 2019 put one after each attention and each MLP, Pfeiffer et al.
2021 one a layer, after the MLP; both before the sum with the residual stream,
which here are the sites `out` and `wo`.
Source: Houlsby et al. 2019, section 2.1.
Departures: W_up starts at 0, not near it, so that the adapter is the identity
exactly; the layer norms of the base stay frozen unless the train table names
them.
"""

import functools

import flax.linen as nn
import jax

from prompt_jax.errors import UserError
from prompt_jax.t5.product import product
from prompt_jax.typing import Array, Float

_ACTIVATIONS = {
  'relu': jax.nn.relu,
  'gelu': functools.partial(jax.nn.gelu, approximate=True),  # as T5 1.1's
}
_init = nn.initializers.truncated_normal(1e-2)  # Houlsby et al., section 3.6


class Adapter(nn.Module):
  """A bottleneck of m units on what a site produced.

  Args:
    bottleneck: m, at least 1.
    activation: 'relu' or 'gelu'.
  Raises: UserError for a bottleneck below 1 or another activation.
  """

  bottleneck: int = 64
  activation: str = 'gelu'

  linear = False
  elementwise = False

  @nn.compact
  def __call__(
    self, y: Float[Array, 'B T F'], x: Array | None
  ) -> Float[Array, 'B T F']:
    """Args: y [B,T,F]; x unread."""
    del x
    self._check()
    zeros, width = nn.initializers.zeros, y.shape[-1]
    down = self.param('down_kernel', _init, (width, self.bottleneck))
    down_bias = self.param('down_bias', zeros, (self.bottleneck,))
    up = self.param('up_kernel', zeros, (self.bottleneck, width))
    up_bias = self.param('up_bias', zeros, (width,))
    hidden = product(y, down, 'float32') + down_bias[None, None]  # [B,T,m]
    hidden = _ACTIVATIONS[self.activation](hidden)
    return y + product(hidden, up, 'float32') + up_bias[None, None]

  def _check(self):
    where = '/'.join(self.path)
    if not isinstance(self.bottleneck, int) or self.bottleneck < 1:
      raise UserError(
        f'Adapter got bottleneck={self.bottleneck!r}; expected a whole number, '
        f'at least 1 unit, at {where}. Set BOTTLENECK, a sixteenth of the '
        'model width say.'
      )
    if self.activation not in _ACTIVATIONS:
      raise UserError(
        f'Adapter got activation={self.activation!r}; expected one of '
        f'{", ".join(_ACTIVATIONS)}, at {where}. Correct Adapter.activation.'
      )
