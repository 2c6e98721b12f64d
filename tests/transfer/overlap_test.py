"""ON: bounds, chance, layers."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import overlap

L, F = 5, 997


def patterns(*densities):
  rng = np.random.default_rng(5)
  return np.stack([rng.random((L, F)) < d for d in densities])


def test_formula():
  on = patterns(0.3, 0.6)
  one, other = on[:, -overlap.LAST :]
  wanted = (one & other).sum() / np.sqrt(one.sum() * other.sum())
  found = overlap.overlaps(on)
  np.testing.assert_allclose(found[0, 1], wanted, rtol=1e-12)
  np.testing.assert_array_equal(found, found.T)
  np.testing.assert_allclose(np.diag(found), 1)


def test_independent_patterns_are_near_chance():
  on = patterns(0.3, 0.6)
  found = overlap.overlaps(on, 'all')[0, 1]
  chance = overlap.chance(on, 'all')[0, 1]
  np.testing.assert_allclose(chance, np.sqrt(0.3 * 0.6), atol=0.02)
  np.testing.assert_allclose(found, chance, atol=0.03)


def test_nothing_active_is_zero():
  on = np.zeros((2, L, F), bool)
  on[1] = True
  assert not overlap.overlaps(on)[0].any()


def test_zero_is_not_active_and_values_stay():
  values = np.array([[[0.0, -1.0, 2.0]]])
  kept = values.copy()
  np.testing.assert_array_equal(overlap.active(values), [[[0, 0, 1]]])
  np.testing.assert_array_equal(values, kept)


def test_layer_by_layer():
  on = patterns(0.4, 0.4)
  found = overlap.by_layer(on)
  assert found.shape == (L, 2, 2)
  np.testing.assert_allclose(found[2], overlap.overlaps(on, [2]))


def test_layers_that_were_not_recorded():
  with pytest.raises(UserError, match='from 0 to 4, of the 5 layers'):
    overlap.overlaps(patterns(0.5, 0.5), [3, L])
  with pytest.raises(UserError, match='each once, in order. Use --layers 0 2'):
    overlap.overlaps(patterns(0.5, 0.5), [2, 0, 0])
  with pytest.raises(UserError, match='expected .prompts, layers, neurons.'):
    overlap.overlaps(patterns(0.5, 0.5)[0])
  assert overlap.chosen(2) == [0, 1]  # of fewer than three, all
