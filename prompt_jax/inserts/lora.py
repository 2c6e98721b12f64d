"""`LoRA`: a matrix of low rank beside a frozen one.

    y' = y + alpha / r * (x A) B                     A [D,r], B [r,F]

B is 0 at first. Where y = x W, this is x (W + alpha / r A B): merged, it
costs nothing at inference.
Source: Hu et al. 2021, section 4.1.
Departures: A starts uniform in +-1/sqrt(D), as in the released code, where
the paper says Gaussian; no dropout on x; kernels of attention are [D, N K],
so that no parameter has more than two axes.
"""

import flax.linen as nn

from prompt_jax.errors import UserError
from prompt_jax.t5.product import product
from prompt_jax.typing import Array, Float

# Variance 1 / (3 D): uniform in +-1/sqrt(D).
_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class LoRA(nn.Module):
  """A product of rank r beside the one of a site.

  Args:
    rank: r, at least 1.
    alpha: numerator of the scale alpha / r.
  Raises: UserError for a rank below 1.
  """

  rank: int = 8
  alpha: float = 8.0

  linear = True
  elementwise = False

  @nn.compact
  def __call__(
    self, y: Float[Array, 'B T F'], x: Float[Array, 'B T D']
  ) -> Float[Array, 'B T F']:
    """Args: y [B,T,F], produced; x [B,T,D], consumed."""
    if not isinstance(self.rank, int) or self.rank < 1:
      raise UserError(
        f'LoRA got rank={self.rank!r}; expected a whole number, at least 1, at '
        f'{"/".join(self.path)}. Set RANK, 8 say.'
      )
    a = self.param('lora_a', _init, (x.shape[-1], self.rank))
    b = self.param('lora_b', nn.initializers.zeros, (self.rank, y.shape[-1]))
    low = product(x, a, 'float32')  # [B,T,r]
    return y + (self.alpha / self.rank) * product(low, b, 'float32')
