"""`Linear`: the affine map inside the networks of prompts.

    y = x W + b           W [in,out], b [out]

Source: PyTorch's Linear, whose initial range the papers' code relies on:
both U(-1/sqrt(in), 1/sqrt(in)). Departures: W is stored the other way round.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Float

# Prompts are computed in float32 on any hardware.
EXACT = jax.lax.Precision.HIGHEST


def uniform_within(limit: float) -> Callable:
  """Initialiser `(rng, shape) -> float32` of U(-limit, limit)."""
  return lambda rng, shape: jax.random.uniform(
    rng, shape, jnp.float32, -limit, limit
  )


class Linear(nn.Module):
  """An affine map of the last axis, in float32.

  Args:
    features: size of the last axis of the result.
    axes: logical names of the axes of W; None is not sharded.
    use_bias: whether b is there.
    init: of W; None is U(-1/sqrt(in), 1/sqrt(in)).
    bias_init: of b; None is as W.
  """

  features: int
  axes: tuple[str | None, str | None]
  use_bias: bool = True
  init: Callable | None = None
  bias_init: Callable | None = None

  @nn.compact
  def __call__(self, x: Float[Array, '... I']) -> Float[Array, '... O']:
    """Args: x float32[..., in]. Returns: float32[..., out].

    Raises: UserError for a size below 1.
    """
    if not isinstance(self.features, int) or self.features < 1:
      raise UserError(
        f'{"/".join(self.path)} got {self.features!r} units; expected a whole '
        'number, 1 or more. Correct BOTTLENECK.'
      )
    init = self.init or uniform_within(x.shape[-1] ** -0.5)
    named = nn.with_logical_partitioning
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', named(init, self.axes), shape)
    y = jnp.dot(x, kernel, precision=EXACT)
    if not self.use_bias:
      return y
    bias_init = named(self.bias_init or init, self.axes[1:])
    bias = self.param('bias', bias_init, shape[1:])
    return y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))


def layer_norm(name: str | None = None) -> nn.LayerNorm:
  """(x - mean) / sqrt(var + 1e-5) scale + bias over the width.

  An ordinary LayerNorm and not T5's, which has neither mean nor bias; the
  variance is the biased one and 1e-5 is PyTorch's.
  """
  named = lambda init: nn.with_logical_partitioning(init, ('prompt_embed',))
  return nn.LayerNorm(
    epsilon=1e-5,
    scale_init=named(nn.initializers.ones),
    bias_init=named(nn.initializers.zeros),
    use_fast_variance=False,  # E[x^2] - E[x]^2 loses half of the digits
    name=name,
  )


class Dropout(nn.Module):
  """Dropout of single numbers, where a random stream 'dropout' is given.

  Training gives one; evaluation and export do not, and see all numbers.
  """

  rate: float = 0.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Args: x of any shape. Returns: the same shape.

    Raises: UserError for a rate outside of [0, 1).
    """
    if not 0 <= self.rate < 1:
      raise UserError(
        f'{"/".join(self.path)} got a dropout rate of {self.rate}; expected at '
        'least 0 and less than 1, such as 0.1.'
      )
    return nn.Dropout(self.rate)(x, not self.has_rng('dropout'))
