"""Adam with an uncorrected second moment."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer.uncorrected_adam import uncorrected_adam

RATE, B1, B2, EPS = 0.1, 0.9, 0.999, 1e-6


def test_two_steps_in_numpy():
  rng = np.random.default_rng(0)
  grads = rng.normal(size=(2, 5)) * 1e-6  # near eps, where it matters
  flat = {'w': jnp.zeros(5)}
  optimizer, m, v, w = uncorrected_adam(), 0.0, 0.0, np.zeros(5)
  state = optimizer.init(flat)
  for t, g in enumerate(grads, 1):
    updates, state = optimizer.update(
      {'w': jnp.asarray(g, jnp.float32)},
      state,
      flat,
      learning_rate={'w': jnp.float32(RATE)},
    )
    flat = {'w': flat['w'] + updates['w']}
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
    rate = RATE * np.sqrt(1 - B2**t) / (1 - B1**t)
    w = w - rate * m / (np.sqrt(v) + EPS)
  np.testing.assert_allclose(flat['w'], w, rtol=2e-3)
  assert int(state.count) == 2


def test_moments_are_two_arrays():
  state = uncorrected_adam().init({'w': jnp.zeros(3)})
  assert state.mu['w'] is not state.nu['w']


def test_decays():
  with pytest.raises(UserError, match='b2=1'):
    uncorrected_adam(b2=1.0)
