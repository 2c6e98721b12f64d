"""`MLP`: the bottleneck network of residual prompts, position by position.

    phi(x) = LN(W_up act(W_down x + b_down) + b_up)        x [H]
    passes = 2:  phi(phi(x)), the same phi twice

Source: Razdaibiedina et al. 2023, section 3.2; its released code, MLP1 and
MLP2. Departures: the release always takes ReLU, whatever it is told.
"""

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts.linear import Dropout, Linear, layer_norm
from prompt_jax.typing import Array, Float

_ACTIVATIONS = {'relu': nn.relu, 'tanh': jnp.tanh, 'sigmoid': nn.sigmoid}


class MLP(nn.Module):
  """Down to the bottleneck and up again.

  Args:
    bottleneck: m, width between the two maps (800: the release's default).
    passes: how often phi is applied.
    activation: 'relu', 'tanh' or 'sigmoid'.
    layer_norm: whether LN is there.
    dropout: rate after W_up, while training.
  """

  bottleneck: int = 800
  passes: int = 1
  activation: str = 'relu'
  layer_norm: bool = True
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, '... P H']) -> Float[Array, '... P H']:
    """Args: x float32[..., P, H]. Returns: the same shape.

    Raises: UserError for an unknown activation.
    """
    if self.activation not in _ACTIVATIONS:
      close = params.nearest(str(self.activation), list(_ACTIVATIONS), 1)[0]
      raise UserError(
        f'MLP got activation={self.activation!r}; expected one of '
        f'{", ".join(_ACTIVATIONS)}. Did you mean {close!r}? Correct '
        'MLP.activation.'
      )
    act = _ACTIVATIONS[self.activation]
    down = Linear(self.bottleneck, ('prompt_embed', None), name='down')
    up = Linear(x.shape[-1], (None, 'prompt_embed'), name='up')
    norm = layer_norm('norm') if self.layer_norm else lambda x: x
    drop = Dropout(self.dropout)
    for _ in range(self.passes):
      x = norm(drop(up(act(down(x)))))
    return x
