"""A bias of the keys has no effect, which is why BitFit here has none."""

import numpy as np

from prompt_jax import ginfiles
from prompt_jax.inserts import Bias, saved
from tests import models
from tests.inserts.model_test import ONE, random


def test_the_softmax_cancels_a_bias_of_the_keys():
  model = models.make(inserts=[('.*/key', Bias)], **ONE)
  flat, rows = models.initial(model), models.batch()
  run = models.compiled(model)
  moved = random(flat)
  assert saved.own(moved)
  np.testing.assert_allclose(run(moved, rows), run(flat, rows), atol=2e-5)


def test_the_method_has_none():
  text = open(ginfiles.find('methods/bitfit.gin')).read()
  (places,) = [line for line in text.splitlines() if '@inserts.Bias' in line]
  assert 'key' not in places and 'query' in places
