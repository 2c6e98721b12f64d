"""`Mask`: the formula, the identity, and an MLP without neurons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.inserts.mask import Mask
from prompt_jax.training.step import forward
from tests import models

SITES = r'(encoder|decoder)/layers_\d+/mlp/hidden'


@pytest.fixture(scope='module')
def parts():
  few = {'num_encoder_layers': 1, 'num_decoder_layers': 1}
  plain = models.make('plain', **few)
  masked = models.make('plain', inserts=((SITES, Mask),), **few)
  flat = models.initial(masked)
  return plain, masked, flat


def logits(model, flat):
  run = jax.jit(functools.partial(forward, model))
  return np.asarray(run(flat, models.batch()))


def test_formula():
  rng = np.random.default_rng(2)
  y, mask = rng.normal(size=(2, 3, 5)), np.array([1, 0, 1, 0.5, 1], np.float32)
  got = Mask().apply({'params': {'mask': mask}}, y, None)
  np.testing.assert_allclose(got, y * mask, rtol=1e-6)


def test_ones_change_nothing(parts):
  plain, masked, flat = parts
  base = {path: x for path, x in flat.items() if '_insert' not in path}
  assert len(flat) - len(base) == 2
  np.testing.assert_array_equal(logits(masked, flat), logits(plain, base))


def test_zeros_take_the_mlps_away(parts):
  plain, masked, flat = parts
  none = {
    path: jnp.zeros_like(x) if path.endswith('_insert/mask') else x
    for path, x in flat.items()
  }
  without = {
    path: jnp.zeros_like(x) if path.endswith('mlp/wo/kernel') else x
    for path, x in flat.items()
    if '_insert' not in path
  }
  np.testing.assert_array_equal(logits(masked, none), logits(plain, without))
