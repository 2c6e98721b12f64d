"""Projectors: their forms in NumPy, files, and what is refused."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.projector import Projector

S, P, G, Q, H, F = 2, 3, 5, 7, 11, 13
ACTIVATIONS = {
  'leaky_relu': lambda x: np.where(x > 0, x, 0.01 * x),
  'tanh': np.tanh,
  'relu': lambda x: np.maximum(x, 0),
}


@pytest.fixture
def prompts():
  return np.random.default_rng(0).normal(size=(S, P, G)).astype(np.float32)


def numbers(module):
  return {
    k: np.asarray(x) for k, x in projectors.initial(module, (P, G)).items()
  }


def normed(x, flat):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
  return x * flat['layer_norm/scale'] + flat['layer_norm/bias']


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_the_papers_form(prompts, activation):
  module = Projector(Q, H, F, activation)
  flat = numbers(module)
  act = ACTIVATIONS[activation]
  x = prompts.reshape(S, -1) @ flat['first/kernel'] + flat['first/bias']
  x = act(x) @ flat['second/kernel'] + flat['second/bias']
  wanted = normed(x.reshape(S, Q, H), flat)
  found = projectors.apply(module, flat, prompts)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_row_by_row_with_a_single_layer(prompts):
  module = Projector(P, H, None, norm=False, flat=False)
  flat = numbers(module)
  x = prompts @ flat['second/kernel'] + flat['second/bias']
  found = projectors.apply(module, flat, prompts)
  np.testing.assert_allclose(
    found, ACTIVATIONS['leaky_relu'](x), rtol=1e-4, atol=1e-6
  )
  turned = projectors.apply(module, flat, prompts[:, ::-1])
  np.testing.assert_allclose(turned, found[:, ::-1], rtol=1e-5, atol=1e-6)


def test_scaled_sources_lose_their_norm(prompts):
  module = Projector(Q, H, F, scaled=True)
  flat = projectors.initial(module, (P, G))
  found = projectors.apply(module, flat, prompts)
  np.testing.assert_allclose(
    projectors.apply(module, flat, 1000 * prompts), found, rtol=1e-4, atol=1e-5
  )


def test_kernels_of_the_recipe_for_t5():
  limit = (P * G) ** -0.5
  plain, drawn = (
    numbers(Projector(Q, H, F, norm=False, kernels=kernels))
    for kernels in ('uniform', 'normal')
  )
  assert np.abs(plain['first/kernel']).max() <= limit
  np.testing.assert_allclose(np.std(drawn['first/kernel']), 1, rtol=0.2)
  assert np.abs(drawn['first/bias']).max() <= limit  # those stay


def test_files(prompts, tmp_path):
  module = Projector(Q, H, F, 'tanh', norm=False)
  flat = projectors.initial(module, (P, G))
  path = tmp_path / 'made' / 'projector.npz'
  projectors.save(path, module, flat, {'objective': 'task'})
  again, held, about = projectors.load(path)
  assert again == module and about == {'objective': 'task'}
  np.testing.assert_array_equal(
    projectors.apply(again, held, prompts),
    projectors.apply(module, flat, prompts),
  )
  path.with_suffix('.json').write_text('{}')
  with pytest.raises(UserError, match='cannot be read as a projector'):
    projectors.load(path)


def test_prompts_of_another_length(prompts):
  module = Projector(Q, H, F)
  flat = projectors.initial(module, (P, G))
  with pytest.raises(UserError, match=r'\[2, 5\]; the .* expects P x Hs = 15'):
    projectors.apply(module, flat, prompts[:, 1:])
  rows = Projector(Q, H, F, flat=False)
  with pytest.raises(UserError, match='got prompts .3, 5.; expected 7 rows'):
    projectors.initial(rows, (P, G))


@pytest.mark.parametrize(
  'field, value, match',
  [
    ('activation', 'gelu', "activation='gelu'; expected one of"),
    ('kernels', 'ones', "kernels='ones'"),
    ('hidden', 0, 'hidden=0; expected at least 1 unit'),
    ('length', 0, 'length=0; expected at least 1 row'),
  ],
)
def test_fields(field, value, match):
  fields = {'length': Q, 'width': H, field: value}
  with pytest.raises(UserError, match=match):
    Projector(**fields).check()
