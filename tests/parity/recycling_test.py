"""Recycled prompts against those that the released code made."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params, recycle
from tests.parity.golden import part
from tests.shared import fixtures

_SIZES = {'epochs': 3, 'bs': 10}  # of a set that does not say


def test_as_the_release_does(monkeypatch):
  folder = fixtures('prompt_tuning')
  stored = np.load(folder / 'recycling.npz')
  source, target = stored['source_embeddings'], stored['target_embeddings']
  prompt, few = stored['source_prompt'], int(stored['few'])
  linear = {'rtol': 2e-3, 'atol': 2e-3}
  found, _ = recycle.v2v_lin(source, target, prompt)
  np.testing.assert_allclose(found, stored['v2v_lin_prompt'], **linear)
  found, _ = recycle.lin_comb(source, target, prompt)
  np.testing.assert_allclose(found, stored['lin_comb_all_prompt'], **linear)
  found, _ = recycle.lin_comb(source[:few], target[:few], prompt)
  np.testing.assert_allclose(found, stored['lin_comb_few_prompt'], **linear)
  hidden = len(stored['nn_init/params/Dense_0/bias'])
  given = {'params': params.unflatten(part(stored, 'nn_init/params/'))}
  monkeypatch.setattr(recycle, '_HIDDEN', hidden // target.shape[1])
  drawn = recycle.Network.init
  monkeypatch.setattr(recycle.Network, 'init', lambda *_: given)
  network = recycle.Network(hidden, target.shape[1])
  ours = jax.tree.map(jnp.shape, drawn(network, jax.random.key(0), source[:1]))
  assert ours == jax.tree.map(jnp.shape, given)
  found, _ = recycle.v2v_nn(source, target, prompt, epochs=0)
  expected = stored['v2v_nn_prompt_at_init']
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  said = re.search(r'settings of this set.*?(\{.*\})', _read(folder))
  sizes = _SIZES | (json.loads(said[1]) if said else {})
  found, _ = recycle.v2v_nn(
    source, target, prompt, epochs=sizes['epochs'], batch_size=sizes['bs']
  )
  expected = stored['v2v_nn_prompt']
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def _read(folder):
  file = folder / 'README.md'
  return file.read_text() if file.is_file() else ''
