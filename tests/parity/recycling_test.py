"""Recycled prompts against those that the released code made."""

import json
import re

import numpy as np

from prompt_jax import recycle
from tests.shared import fixtures


def test_as_the_release_does():
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
  found, _ = recycle.v2v_nn(source, target, prompt, epochs=0)
  expected = stored['v2v_nn_prompt_at_init']
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  said = re.search(r'settings of this set.*?(\{.*\})', _read(folder)).group(1)
  sizes = json.loads(said)
  found, _ = recycle.v2v_nn(
    source, target, prompt, epochs=sizes['epochs'], batch_size=sizes['bs']
  )
  expected = stored['v2v_nn_prompt']
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def _read(folder):
  return (folder / 'README.md').read_text()
