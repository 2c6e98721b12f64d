"""A base against the model it is meant for, in every layout."""

import json
import pathlib
import re
import weakref

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_jax.t5 import hf_checkpoint, pretrained, t5x_checkpoint
from prompt_jax.t5 import sizes as sizes_lib
from tests.t5.bases import (
  EMBEDDING,
  LOGITS,
  QUERY,
  N,
  assert_equal,
  expected,
  fails,
  weights,
  write_hf,
  write_native,
)


def test_save_and_load(tmp_path):
  wanted = weights()
  wanted[QUERY] = wanted[QUERY].astype(ml_dtypes.bfloat16)
  path = tmp_path / 'deep/base'
  pretrained.save(str(path), wanted, {'step': 41, 'format': 'mine'})
  assert [child.name for child in path.parent.iterdir()] == ['base']
  assert json.loads((path / 'config.json').read_text()) == {
    'format': 'prompt_jax',
    'step': 41,
  }
  assert load_file(path / 'model.safetensors').keys() == wanted.keys()
  assert_equal(pretrained.load(str(path), expected()), wanted)
  assert_equal(pretrained.read(str(path), [QUERY]), {QUERY: wanted[QUERY]})
  assert pretrained.identity(str(path)) == {
    'source': str(path),
    'format': 'own',
    'step': 41,
  }
  fails(lambda: pretrained.save(str(path), wanted, {}), 'exists already')
  fails(lambda: pretrained.read(str(path), ['encoder/query']), 'Nearest: ')


def test_a_failed_save_leaves_nothing(tmp_path):
  with pytest.raises(TypeError):
    pretrained.save(str(tmp_path / 'base'), weights(), {'step': object()})
  assert not list(tmp_path.iterdir())


def test_missing_folder_names_its_neighbours(tmp_path):
  (tmp_path / 't5_1_1_base').mkdir()
  (tmp_path / 'notes').mkdir()
  fails(
    lambda: pretrained.load(str(tmp_path / 't5_1_1_bas'), expected()),
    f'no checkpoint {tmp_path}/t5_1_1_bas;',
    f'there is: {tmp_path}/t5_1_1_base',
  )
  fails(
    lambda: pretrained.load(str(tmp_path / 'notes'), expected()),
    f'{tmp_path}/notes holds no T5X checkpoint',
  )
  path = write_native(tmp_path / 'a', weights())
  fails(
    lambda: pretrained.load(f'{path}/checkpoint', expected()),
    'is a file',
    f'Give {path}.',
  )


@pytest.fixture(params=['t5x', 'hf', 'own'])
def write(request, tmp_path):
  """Writes a base in one of the layouts and returns its path."""

  def own(folder, arrays):
    pretrained.save(str(folder), arrays, {})
    return str(folder)

  writer = {'t5x': write_native, 'hf': write_hf, 'own': own}[request.param]
  return lambda arrays: writer(tmp_path / 'base', arrays)


def test_wrong_vocabulary(write):
  path = write(weights(vocab=17))
  fails(
    lambda: pretrained.load(path, expected()),
    f'{EMBEDDING} is (17, 7), expected (13, 7)',
    'vocabulary does not match',
    '17 rows, NUM_EMBEDDINGS is 13',
  )


def test_wrong_size(write):
  path = write(weights(width=19, layers=(3, 3)))
  fails(
    lambda: pretrained.load(path, expected()),
    'model size differs',
    'EMBED_DIM=19 (model: 7), NUM_ENCODER_LAYERS=3 (model: 2)',
  )


def test_missing_key(write):
  arrays = weights()
  del arrays[QUERY]
  path = write(arrays)
  fails(
    lambda: pretrained.load(path, expected()),
    f'missing    {QUERY} (7, 15)',
    'whole',
  )


def test_left_over_key(write):
  path = write(weights(gated=True))
  less = {k: leaf for k, leaf in expected().items() if k != QUERY}
  fails(lambda: pretrained.load(path, less), f'left over  {QUERY} (7, 15)')
  assert QUERY not in pretrained.load(path, less, ignore=['.*/query/kernel'])
  # a pattern has to match whole, and never hides what the model wants
  fails(lambda: pretrained.load(path, less, ignore=['query']), 'left over')
  assert QUERY in pretrained.load(path, expected(), ignore=['.*'])


def test_transposed_kernel(write):
  arrays = weights()
  arrays[QUERY] = np.ascontiguousarray(arrays[QUERY].T)
  path = write(arrays)
  fails(
    lambda: pretrained.load(path, expected()),
    f'{QUERY} is (15, 7), expected (7, 15)',
    f'{QUERY} is transposed',
  )


def test_other_family(write):
  path = write(weights(gated=False))
  fails(
    lambda: pretrained.load(path, expected()),
    f'missing    {LOGITS}',
    'T5 1.0 ties',
  )


def test_nothing_is_read_before_the_shapes_agree(write, monkeypatch):
  path = write(weights(vocab=17))

  def read(*args):
    raise AssertionError('an array was read')

  monkeypatch.setattr(t5x_checkpoint.Checkpoint, 'read', read)
  monkeypatch.setattr(hf_checkpoint.Shards, 'read', read)
  fails(lambda: pretrained.load(path, expected()), 'does not fit')


def test_tables_per_layer_are_refused(tmp_path):
  scanned = weights()
  scanned['encoder/encoder/relpos_bias/rel_embedding'] = np.ones(
    (N, 2, 32), np.float32
  )
  path = str(tmp_path / 'scanned')
  pretrained.save(path, scanned, {})
  fails(
    lambda: pretrained.load(path, expected()), 'a scanned tree', 'unscanned'
  )
  table = 'encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight'
  extra = {table: np.ones((32, N), np.float32)}
  path = write_hf(tmp_path / 'umt5', weights(), extra=extra)
  fails(lambda: pretrained.load(path, expected()), table, 'per layer')


def test_uncast_arrays_do_not_pile_up(tmp_path, monkeypatch):
  read, seen = hf_checkpoint.Shards.read, []

  def watched(shards, name):
    # the interpreter may hold on to the one before until this call returns
    assert sum(ref() is not None for ref in seen) <= 1, name
    array = read(shards, name)
    seen.append(weakref.ref(array))
    return array

  path = write_hf(tmp_path / 'base', weights())
  monkeypatch.setattr(hf_checkpoint.Shards, 'read', watched)
  pretrained.load(path, expected(), dtype='bfloat16')
  assert len(seen) == len(expected())


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_cast(write, dtype):
  path = write(weights())
  loaded = pretrained.load(path, expected(), dtype=dtype)
  to = np.float32 if dtype == 'float32' else ml_dtypes.bfloat16
  assert_equal(loaded, {k: w.astype(to) for k, w in weights().items()})
  fails(lambda: pretrained.load(path, expected(), dtype='float16'), 'overflows')


@pytest.mark.parametrize(
  ('sizes', 'name'),
  [
    ((32128, 768, 3072), 't5_base'),
    ((32128, 4096, 10240), 't5_1_1_xxl'),
    ((250112, 512, 1024), 'mt5_small'),
    ((384, 1536, 3840), 'byt5_large'),
    ((384, 5, 7), None),
  ],
)
def test_public_sizes_have_a_model_file(sizes, name):
  macros = ('NUM_EMBEDDINGS', 'EMBED_DIM', 'MLP_DIM')
  found = sizes_lib.model_file(dict(zip(macros, sizes, strict=True)))
  assert found == name


def test_model_files_exist_with_these_sizes():
  folder = pathlib.Path(pretrained.__file__).parents[2] / 'gin/models'
  files = {file.stem for file in folder.glob('*.gin')}
  if not files:
    pytest.skip('the gin files are not beside the package')
  for pair, name in sizes_lib._MODELS.items():
    text = (folder / f'{name}.gin').read_text()
    found = tuple(
      int(re.search(rf'^{macro} *= *(\d+)', text, re.M)[1])
      for macro in ('EMBED_DIM', 'MLP_DIM')
    )
    assert found == pair, name
  for size in sizes_lib._T5_1_1.values():
    assert {f't5_1_1_{size}', f'mt5_{size}'} <= files
