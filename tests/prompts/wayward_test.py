"""A prompt kept near its start: what it starts as, and what is sown."""

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.prompts.wayward import Wayward
from tests.prompts.sources import apply, filled, initial, inputs

P, H = 7, 13


def test_prompt_and_anchor_start_alike():
  flat = initial(Wayward(P), *inputs(width=H))
  assert flat.keys() == {'prompt', 'anchor'}
  np.testing.assert_array_equal(flat['prompt'], flat['anchor'])
  assert np.unique(flat['prompt']).size > H


def test_the_distance_is_sown_once_and_pulls_the_prompt_back():
  args, source = inputs(width=H), Wayward(P, weight=0.3)
  flat = filled(source, *args)

  def sown(flat):
    out, state = apply(source, flat, *args, mutable=['losses'])
    (loss,) = jax.tree.leaves(state)
    return loss, out

  loss, out = sown(flat)
  for row in out:
    np.testing.assert_array_equal(row, flat['prompt'])
  gap = np.asarray(flat['prompt'] - flat['anchor'])
  np.testing.assert_allclose(loss, 0.3 * (gap**2).sum() / P, rtol=1e-5)
  gradient = jax.grad(lambda flat: sown(flat)[0])(flat)['prompt']
  np.testing.assert_allclose(gradient, 0.3 * 2 * gap / P, rtol=1e-4, atol=1e-6)


def test_nothing_is_sown_where_nobody_asks():
  args = inputs(width=H)
  flat = filled(Wayward(P), *args)
  assert isinstance(apply(Wayward(P), flat, *args), jnp.ndarray)
