"""Answers: first tokens, and what tells labels apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import answers


def test_only_the_labels_compete():
  scores = jnp.asarray([[9.0, 1.0, 3.0, 2.0], [9.0, 5.0, 3.0, 4.0]])
  found = answers.restricted_argmax(scores, np.array([3, 1]))
  np.testing.assert_array_equal(found, [0, 1])


def test_labels_that_begin_alike():
  rows = [[5, 6, 1], [7, 1], [5, 1]]
  with pytest.raises(UserError, match="'unreal' and 'un' begin with .* 5;"):
    answers.first_tokens(['unreal', 'yes', 'un'], rows)
  assert answers.first_tokens(['unreal', 'yes'], rows[:2]) == [5, 7]
