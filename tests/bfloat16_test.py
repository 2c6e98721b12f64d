"""bfloat16 products on this machine: everything that multiplies runs, and is
near float32.

XLA's CPU compiler has products of bfloat16 for some layouts only, and says so
when it runs them, not when it compiles.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import predict
from prompt_jax.predict import Decoding
from prompt_jax.training.step import forward
from tests import models

U = 5


def _both(source, function, rows, **changes):
  """What a function of (model, flat, rows) finds in both dtypes."""
  flat = models.initial(models.make(source, **changes))
  run = lambda dtype: jax.jit(
    lambda flat: function(
      models.make(source, activation_dtype=dtype, **changes), flat, rows
    )
  )(flat)
  return run('float32'), run('bfloat16')


def _gradient(model, flat, rows):
  total = lambda flat: jnp.mean(jnp.square(forward(model, flat, rows)))
  return jax.grad(total)(flat)


@pytest.mark.parametrize('source, heads', [('both', 1), ('tasks', 2)])
def test_gradients_of_every_parameter(source, heads):
  wide, narrow = _both(source, _gradient, models.batch(), num_heads=heads)
  assert wide.keys() == narrow.keys()
  apart = sum(float(jnp.sum((wide[k] - narrow[k]) ** 2)) for k in wide)
  size = sum(float(jnp.sum(wide[k] ** 2)) for k in wide)
  # eight bits of mantissa, 2^-9 a rounding, over some tens of products
  assert 0 < np.sqrt(apart / size) < 0.05


@pytest.mark.parametrize('count', [1, 3])
def test_decoding_and_scoring(count):
  rows = {name: x[:count] for name, x in models.batch().items()}
  labels = np.array([[3, 1, 0], [5, 7, 1]], np.int32)
  rank = lambda model, flat, rows: predict.ranker(model)(flat, rows, labels)
  wide, narrow = _both('encoder', rank, rows)
  np.testing.assert_allclose(wide, narrow, atol=0.1)
  for decoding in Decoding(), Decoding('beam', num_decodes=3):
    decode = lambda model, flat, rows, how=decoding: predict.decoder(
      model, U, how
    )(flat, rows)[1]
    wide, narrow = _both('both', decode, rows)
    assert wide.shape == narrow.shape and np.isfinite(narrow).all()
