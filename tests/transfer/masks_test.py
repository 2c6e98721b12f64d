"""Masks: how many neurons, and which."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import masks

L, F = 3, 7


def test_the_largest_of_all_layers_go():
  values = np.random.default_rng(0).normal(size=(L, F))
  values[1] += 10  # its layer loses everything first
  mask = masks.largest(values, 1 / 3)
  assert mask.dtype == np.float32
  np.testing.assert_array_equal(mask[1], 0)
  np.testing.assert_array_equal(mask[[0, 2]], 1)


@pytest.mark.parametrize('ratio', [0, 0.2, 0.5, 1])
def test_random_masks_are_as_large(ratio):
  values = np.random.default_rng(0).normal(size=(L, F))
  own, random = masks.largest(values, ratio), masks.random((L, F), ratio, 5)
  assert own.sum() == random.sum() == L * F - int(ratio * L * F)
  np.testing.assert_array_equal(random, masks.random((L, F), ratio, 5))


def test_a_share_above_one():
  with pytest.raises(UserError, match='mask is 1.5; expected a number from 0'):
    masks.largest(np.zeros((L, F)), 1.5)


def test_a_mask_in_some_layers():
  mask = masks.largest(np.random.default_rng(0).normal(size=(L, F)), 0.5)
  found = masks.within(mask, [0, 2])
  np.testing.assert_array_equal(found[[0, 2]], mask[[0, 2]])
  np.testing.assert_array_equal(found[1], 1)
  assert not mask[1].all()  # and the mask itself is as it was
  np.testing.assert_array_equal(masks.within(mask, None), mask)
