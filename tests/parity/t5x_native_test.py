"""Checkpoints that T5X itself wrote, leaf by leaf."""

import json
import tarfile

import numpy as np
import pytest

from prompt_jax.t5 import pretrained, t5x_checkpoint
from tests.shared import fixtures


def _checkpoint(archive, folder):
  """Unpacks <name>/checkpoint_<step>/ and returns its path."""
  with tarfile.open(archive) as tar:
    tar.extractall(folder, filter='data')
  (found,) = folder.glob('*/checkpoint_*')
  return str(found)


def _archives():
  archives = sorted(fixtures('t5x_native').glob('*.tar.gz'))
  if not archives:
    pytest.skip('the folder of T5X checkpoints has no archive')
  return archives


def _expected(archive):
  name = archive.name.removesuffix('.tar.gz')
  with np.load(archive.with_name(f'{name}_expected.npz')) as saved:
    return dict(saved)


def test_every_leaf_is_exact(tmp_path):
  for archive in _archives():
    expected = _expected(archive)
    path = _checkpoint(archive, tmp_path / archive.name)
    found = t5x_checkpoint.read_state(path)
    assert found.keys() == expected.keys(), archive.name
    for key, array in found.items():
      assert array.shape == expected[key].shape, (archive.name, key)
      # bfloat16 targets are kept as the float32 they round to
      assert array.dtype.name in ('bfloat16', expected[key].dtype.name), key
      np.testing.assert_array_equal(
        array.astype(expected[key].dtype), expected[key], err_msg=key
      )


def test_shapes_and_single_arrays_agree_with_the_whole(tmp_path):
  for archive in _archives():
    path = _checkpoint(archive, tmp_path / archive.name)
    found = t5x_checkpoint.read_state(path)
    shapes = t5x_checkpoint.shapes(path)
    assert {key: (x.shape, x.dtype) for key, x in shapes.items()} == {
      key: (x.shape, x.dtype) for key, x in found.items()
    }
    for key in ('target/token_embedder/embedding', 'state/step'):
      one = t5x_checkpoint.read_array(path, key)
      np.testing.assert_array_equal(one, found[key])


@pytest.mark.parametrize('dtype', [None, 'float32', 'bfloat16'])
def test_the_base_is_the_target(tmp_path, dtype):
  for archive in _archives():
    expected = _expected(archive)
    weights = {
      key.removeprefix('target/'): array
      for key, array in expected.items()
      if key.startswith('target/')
    }
    path = _checkpoint(archive, tmp_path / archive.name)
    loaded = pretrained.load(path, weights, dtype=dtype)
    assert loaded.keys() == weights.keys()
    for key, array in loaded.items():
      assert dtype is None or array.dtype.name == dtype
      np.testing.assert_array_equal(
        array.astype(np.float32),
        weights[key].astype(array.dtype).astype(np.float32),
        err_msg=f'{archive.name} {key}',
      )
    assert pretrained.identity(path) == {
      'source': path,
      'format': 't5x',
      'step': int(expected['state/step']),
    }


def test_the_published_tiny_checkpoint():
  folder = fixtures('t5x_tiny_checkpoint')
  with open(folder / 'expected.json') as file:
    expected = json.load(file)
  (path,) = folder.glob('checkpoint_*')
  found = t5x_checkpoint.read_state(str(path))
  assert found.keys() == expected.keys()
  for key, row in expected.items():
    array = found[key]
    assert list(array.shape) == row['shape'], key
    assert array.dtype.name == row['dtype'], key
    flat = array.reshape(-1).astype(np.float64)
    assert flat[: len(row['first'])].tolist() == row['first'], key
    assert flat[-1] == row['last'], key
    np.testing.assert_allclose(
      [flat.sum(), np.abs(flat).sum()],
      [row['sum'], row['abs_sum']],
      rtol=1e-6,
      err_msg=key,
    )
