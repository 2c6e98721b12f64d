"""The affine map of the networks of prompts, and sizes that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts.linear import Linear


def test_formula():
  x, axes = jnp.arange(6.0).reshape(2, 3), (None, None)
  out, variables = Linear(5, axes).init_with_output(jax.random.key(0), x)
  w, b = (
    np.asarray(variables['params'][name].unbox()) for name in ('kernel', 'bias')
  )
  np.testing.assert_allclose(out, np.asarray(x) @ w + b, rtol=1e-6, atol=1e-6)


def test_sizes_that_are_none():
  x = jnp.ones((2, 3))
  for features in 0, 2.5:
    with pytest.raises(UserError, match='units; expected a whole number'):
      Linear(features, (None, None)).init_with_output(jax.random.key(0), x)
