"""Adam as the AdamW of transformers computed it: eps beside an uncorrected v.

    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
    update = -lr sqrt(1 - b2^t) / (1 - b1^t)  m / (sqrt(v) + eps)

Adam corrects v first, so that eps weighs sqrt(1 - b2^t) as much there. For
gradients near eps the steps differ by about the rate.
Source: released code of Su et al. 2022 uses it for projectors, with 1e-6.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from prompt_jax.training.optim import (
  Arrays,
  Optimizer,
  as_float32,
  check_share,
)


class UncorrectedAdamState(NamedTuple):
  """`count` int32 scalar; `mu`, `nu` {path: float32}."""

  count: jax.Array
  mu: Arrays
  nu: Arrays


def uncorrected_adam(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6
) -> Optimizer:
  """The optimizer, see the module; the contract is `training.optim`'s.

  Args: b1, b2: decay of the two moments; eps: beside the root of v.
  Raises: UserError for b1, b2 outside [0, 1).
  """
  check_share('uncorrected_adam', b1=b1, b2=b2)

  def init(params):
    # made twice: a step that is given its state may not find an array in it
    # that stands for two
    zeros = lambda: {
      k: jnp.zeros(x.shape, jnp.float32) for k, x in params.items()
    }
    return UncorrectedAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

  def update(grads, state, params, *, learning_rate):
    grads, count = as_float32(grads), state.count + 1
    mu = {k: b1 * state.mu[k] + (1 - b1) * g for k, g in grads.items()}
    nu = {k: b2 * state.nu[k] + (1 - b2) * g**2 for k, g in grads.items()}
    t = count.astype(jnp.float32)
    factor = jnp.sqrt(1 - jnp.float32(b2) ** t) / (1 - jnp.float32(b1) ** t)
    updates = {
      k: -learning_rate[k] * factor * mu[k] / (jnp.sqrt(nu[k]) + eps)
      for k in params
    }
    return updates, UncorrectedAdamState(count, mu, nu)

  return Optimizer(init, update)
