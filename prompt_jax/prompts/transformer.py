"""`Transformer`: a network whose rows of a prompt attend to one another.

    h = LN(x + Attention(x));  out = LN(h + W_2 relu(W_1 h + b_1) + b_2)

Source: released code of Razdaibiedina et al. 2023; the layer is PyTorch's
post-norm encoder layer, without positions or mask. Departures: dropout is an
option here, 0.05 there.
"""

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.prompts.linear import (
  EXACT,
  Dropout,
  Linear,
  layer_norm,
  uniform_within,
)
from prompt_jax.typing import Array, Float


class Layer(nn.Module):
  """Attention of all rows to all rows, then two maps, each with its norm.

  Args: as `Transformer`.
  """

  heads: int
  hidden: int
  dropout: float

  def _attend(self, x):
    """softmax(q k^T / sqrt(K)) v of each head, joined and mapped."""
    width, zeros = x.shape[-1], nn.initializers.zeros
    # PyTorch draws q, k and v as one matrix [3H,H] by Glorot's rule
    init = uniform_within((6 / (4 * width)) ** 0.5)

    def heads(name):
      axes = ('prompt_embed', None)
      y = Linear(width, axes, init=init, bias_init=zeros, name=name)(x)
      return y.reshape(*x.shape[:-1], self.heads, width // self.heads)

    q, k, v = heads('query'), heads('key'), heads('value')
    q = q / (width // self.heads) ** 0.5
    scores = jnp.einsum('...ink,...jnk->...nij', q, k, precision=EXACT)
    weights = Dropout(self.dropout)(nn.softmax(scores))
    y = jnp.einsum('...nij,...jnk->...ink', weights, v, precision=EXACT)
    out = Linear(width, (None, 'prompt_embed'), bias_init=zeros, name='out')
    return out(y.reshape(x.shape))

  @nn.compact
  def __call__(self, x: Float[Array, '... P H']) -> Float[Array, '... P H']:
    """Args: x float32[..., P, H]. Returns: the same shape."""
    drop = Dropout(self.dropout)
    h = layer_norm('attention_norm')(x + drop(self._attend(x)))
    wide = Linear(self.hidden, ('prompt_embed', None), name='wi')(h)
    y = Linear(x.shape[-1], (None, 'prompt_embed'), name='wo')
    return layer_norm('mlp_norm')(h + drop(y(drop(nn.relu(wide)))))


class Transformer(nn.Module):
  """A stack of such layers.

  Args:
    layers: how many (2 in the release).
    heads: of each attention (2 in the release).
    hidden: width between the two maps (2,048 in the release).
    dropout: rate while training.
  """

  layers: int = 2
  heads: int = 2
  hidden: int = 2048
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: Float[Array, '... P H']) -> Float[Array, '... P H']:
    """Args: x float32[..., P, H]. Returns: the same shape.

    Raises: UserError unless the heads divide H.
    """
    if x.shape[-1] % self.heads:
      raise UserError(
        f'Transformer got heads={self.heads} and a prompt of width '
        f'{x.shape[-1]}; expected a divisor of the width. Correct '
        'Transformer.heads.'
      )
    for number in range(self.layers):
      layer = Layer(
        self.heads, self.hidden, self.dropout, name=f'layer_{number}'
      )
      x = layer(x)
    return x
