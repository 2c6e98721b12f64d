"""Hugging Face folders against the same weights under T5X's paths."""

import json

import numpy as np
import pytest

from prompt_jax.t5 import hf_checkpoint, pretrained
from tests.shared import fixtures


def _pairs():
  """(Hugging Face folder, {slash path: array}) of every model there."""
  root = fixtures('t5_logits')
  pairs = []
  for folder in sorted(root.glob('hf_*/')):
    if not folder.is_dir():
      continue
    with np.load(root / f'{folder.name.removeprefix("hf_")}.npz') as saved:
      weights = {
        key.removeprefix('params/'): saved[key]
        for key in saved.files
        if key.startswith('params/')
      }
    pairs.append((folder, weights))
  if not pairs:
    pytest.skip(f'{root} has no Hugging Face folder')
  return pairs


def test_weights_are_equal():
  for folder, weights in _pairs():
    loaded = pretrained.load(str(folder), weights)
    assert loaded.keys() == weights.keys()
    for key, array in loaded.items():
      assert array.flags['C_CONTIGUOUS'], key
      np.testing.assert_array_equal(array, weights[key], err_msg=key)


def test_names_map_both_ways():
  for folder, weights in _pairs():
    stored = hf_checkpoint.Shards(folder).shapes
    names = {key: hf_checkpoint.hf_name(key) for key in weights}
    assert {name for name, _ in names.values()} <= stored.keys()
    for key, (name, transposed) in names.items():
      assert hf_checkpoint.slash_path(name) == key
      shape = stored[name].shape
      assert (shape[::-1] if transposed else shape) == weights[key].shape


def test_tied_follows_the_output_kernel():
  for folder, weights in _pairs():
    config = json.loads((folder / 'config.json').read_bytes())
    stored = hf_checkpoint.Shards(folder).shapes
    assert hf_checkpoint.is_tied(config, stored) == (
      hf_checkpoint.LOGITS not in weights
    )


def test_identity():
  for folder, _ in _pairs():
    expected = {'source': str(folder.resolve()), 'format': 'hf', 'step': None}
    assert pretrained.identity(str(folder)) == expected
