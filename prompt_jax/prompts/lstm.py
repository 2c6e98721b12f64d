"""`LSTM`: a network that reads the rows of a prompt in both directions.

    i, f, g, o = x_t W_in + b_in + h_(t-1) W_rec + b_rec     split in four
    c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(c_t);   out_t = concat(h_t forward, h_t backward)

Source: released code of Razdaibiedina et al. 2023, LSTM1 and LSTM2; the cell
is PyTorch's, with its two biases. Departures: dropout is an option here, 0.05
there; the head that the release builds and never uses is left out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.prompts.linear import EXACT, Dropout, Linear, uniform_within
from prompt_jax.typing import Array, Float


class Direction(nn.Module):
  """One direction of one layer.

  Args:
    size: h, half the width.
    reverse: reads from the last position to the first.
  """

  size: int
  reverse: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, '... P I']) -> Float[Array, '... P C']:
    """Args: x float32[..., P, in]. Returns: float32[..., P, h]."""
    init = uniform_within(self.size**-0.5)
    maps = {
      name: Linear(4 * self.size, (axis, None), init=init, name=name)
      for name, axis in (('input', 'prompt_embed'), ('recurrent', None))
    }
    zero = jnp.zeros((*x.shape[:-2], self.size), jnp.float32)
    if self.is_initializing():
      maps['recurrent'](zero)  # makes its parameters, which the loop reads
    own = maps['recurrent'].variables['params']
    kernel, bias = (nn.meta.unbox(own[key]) for key in ('kernel', 'bias'))

    def step(carry, drive):
      h, c = carry
      gates = drive + jnp.dot(h, kernel, precision=EXACT)
      i, f, g, o = jnp.split(gates, 4, axis=-1)
      c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
      h = nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), h

    driven = maps['input'](x)
    driven += jnp.expand_dims(bias, tuple(range(driven.ndim - 1)))
    rows = jnp.moveaxis(driven, -2, 0)
    _, out = jax.lax.scan(step, (zero, zero), rows, reverse=self.reverse)
    return jnp.moveaxis(out, 0, -2)


class LSTM(nn.Module):
  """Layers of two directions, as wide together as the prompt.

  Args:
    layers: 1 or more; 2 is the release's LSTM2.
    dropout: rate between layers, while training.
  """

  layers: int = 1
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, '... P H']) -> Float[Array, '... P H']:
    """Args: x float32[..., P, H], H even. Returns: the same shape.

    Raises: UserError if H is odd.
    """
    width = x.shape[-1]
    if width % 2:
      raise UserError(
        f'LSTM got a prompt of width {width}; expected an even one, half for '
        'each direction. Take MLP or Transformer for this model.'
      )
    for layer in range(self.layers):
      if layer:
        x = Dropout(self.dropout)(x)
      ways = [
        Direction(width // 2, way == 'backward', name=f'layer_{layer}_{way}')
        for way in ('forward', 'backward')
      ]
      x = jnp.concatenate([way(x) for way in ways], axis=-1)
    return x
