"""Saved prompts: round trips, damaged files, the order of writing."""

import json
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts import saved

P, H = 7, 11
ARRAY = np.random.default_rng(0).normal(size=(P, H)).astype(np.float32)
SIDECAR = {'task': 'sst2', 'base_digest': 'b1', 'vocabulary_digest': 'v1'}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
  path = tmp_path / 'new' / 'sst2.npy'
  saved.save(path, ARRAY, SIDECAR)
  array, sidecar = saved.load(path, (P, H))
  assert array.tobytes() == ARRAY.tobytes()
  assert sidecar == SIDECAR
  names = sorted(child.name for child in path.parent.iterdir())
  assert names == ['sst2.json', 'sst2.npy']
  assert np.load(path).tobytes() == ARRAY.tobytes()
  assert json.loads((path.parent / 'sst2.json').read_text()) == SIDECAR


@pytest.mark.parametrize(
  'array',
  [
    np.asfortranarray(ARRAY),
    ARRAY.astype(np.float64),
    jnp.asarray(ARRAY),
    ARRAY[::-1][::-1],
  ],
  ids=['fortran', 'float64', 'jax', 'strided'],
)
def test_any_float_array_is_stored_as_float32_in_c_order(tmp_path, array):
  path = tmp_path / 'a.npy'
  saved.save(path, array, {})
  stored = np.load(path)
  assert stored.dtype == np.float32 and stored.flags.c_contiguous
  np.testing.assert_array_equal(stored, ARRAY)
  plain = tmp_path / 'plain.npy'
  np.save(plain, ARRAY)
  assert path.read_bytes() == plain.read_bytes()


def test_bfloat16_can_be_saved(tmp_path):
  half = jnp.asarray(ARRAY, jnp.bfloat16)
  saved.save(tmp_path / 'a.npy', half, {})
  array, _ = saved.load(tmp_path / 'a.npy')
  np.testing.assert_array_equal(array, half.astype(jnp.float32))


@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, '>f4'])
def test_any_float_file_is_loaded_as_float32_in_c_order(tmp_path, dtype, order):
  path = tmp_path / 'a.npy'
  np.save(path, np.asarray(ARRAY, dtype, order=order))
  array, sidecar = saved.load(path)
  assert array.dtype == np.float32 and array.dtype.isnative
  assert array.flags.c_contiguous and array.flags.writeable
  assert not isinstance(array, np.memmap) and sidecar is None
  np.testing.assert_array_equal(array, ARRAY.astype(dtype))


def test_names_without_a_suffix_keep_their_dots(tmp_path):
  path = tmp_path / 'encoder.prompt.prompt.prompt'
  with open(path, 'wb') as file:
    np.save(file, ARRAY)
  assert saved.load(path)[1] is None
  (tmp_path / 'encoder.prompt.prompt.json').write_text('{"not": "its own"}')
  assert saved.load(path)[1] is None
  (tmp_path / f'{path.name}.json').write_text('{"task": "rte"}')
  array, sidecar = saved.load(str(path), (P, H))
  np.testing.assert_array_equal(array, ARRAY)
  assert sidecar == {'task': 'rte'}


def test_a_missing_file_names_its_neighbours(tmp_path):
  for name in ('sst2.npy', 'mrpc.npy', 'rte.npy', 'x', 'y'):
    (tmp_path / name).touch()
  with pytest.raises(UserError, match='sst.npy does not exist.*: sst2.npy'):
    saved.load(tmp_path / 'sst.npy')
  with pytest.raises(UserError, match='is a folder; .*sst2.npy'):
    saved.load(tmp_path)
  with pytest.raises(UserError, match='Nor is there a folder'):
    saved.load(tmp_path / 'no' / 'sst2.npy')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='none, it is empty'):
    saved.load(tmp_path / 'empty' / 'sst2.npy')


def _damaged(path, kind):
  """Writes a file that is no plain .npy array of floats."""
  np.save(path, ARRAY)
  whole = path.read_bytes()
  if kind == 'archive':
    with open(path, 'wb') as file:
      np.savez(file, prompt=ARRAY)
  elif kind == 'object':
    np.save(path, ARRAY.astype(object), allow_pickle=True)
  else:
    path.write_bytes(
      {
        'empty': b'',
        'text': b'0.1 0.2 0.3\n' * 7,
        'pickle': b'\x80\x04N.',
        'cut header': whole[:20],
        'cut data': whole[:-1],
        'no header': whole.replace(b'}', b' ', 1),
      }[kind]
    )


@pytest.mark.parametrize(
  'kind',
  'empty,text,pickle,archive,object,cut header,cut data,no header'.split(','),
)
def test_files_that_are_no_array_are_refused(tmp_path, kind):
  path = tmp_path / 'a.npy'
  _damaged(path, kind)
  text = r'a.npy is not a readable .npy file: .* Expected one plain array'
  with pytest.raises(UserError, match=text):
    saved.load(path)


def test_damage_anywhere_is_a_user_error_or_no_error(tmp_path):
  path = tmp_path / 'a.npy'
  np.save(path, ARRAY)
  whole, rng = path.read_bytes(), np.random.default_rng(1)
  refused = 0
  for _ in range(211):
    torn = bytearray(whole)
    for at in rng.integers(128, size=3):  # 128 bytes of header
      torn[at] = rng.integers(256)
    path.write_bytes(torn)
    try:
      saved.load(path, (P, H))
    except UserError:
      refused += 1
  assert refused > 50


@pytest.mark.parametrize(
  'array',
  [
    ARRAY[0],
    ARRAY[None],
    np.float32(1),
    ARRAY[:0],
    ARRAY.astype(np.int32),
    ARRAY > 0,
  ],
  ids=['1-D', '3-D', '0-D', 'empty', 'int32', 'bool'],
)
def test_arrays_that_are_no_prompt_are_refused(tmp_path, array):
  path = tmp_path / 'a.npy'
  shape = re.escape(f'{array.dtype} {list(array.shape)}; expected floats [P')
  np.save(path, array)
  with pytest.raises(UserError, match=shape):
    saved.load(path)
  with pytest.raises(UserError, match=shape):
    saved.save(tmp_path / 'b.npy', array, {})
  assert not (tmp_path / 'b.npy').exists()


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad):
  array = ARRAY.astype(np.float64)
  array[3, 5] = array[4, 0] = bad
  np.save(tmp_path / 'a.npy', array)
  text = r'2 values that are NaN or infinite, the first at \[3, 5\]'
  with pytest.raises(UserError, match=text):
    saved.load(tmp_path / 'a.npy')
  with pytest.raises(UserError, match=text):
    saved.save(tmp_path / 'b.npy', array, {})


def test_wrong_lengths_and_widths_are_told_apart(tmp_path):
  path = tmp_path / 'a.npy'
  np.save(path, ARRAY)
  with pytest.raises(UserError) as error:
    saved.load(path, (13, H))
  assert 'is a prompt [7, 11]; expected [13, 11].' in str(error.value)
  assert '7 positions long, not 13: set PROMPT_LENGTH=7.' in str(error.value)
  assert 'wide' not in str(error.value)
  with pytest.raises(UserError) as error:
    saved.load(path, (P, 17))
  assert 'It is 11 wide and the model 17' in str(error.value)
  assert 'PROMPT_LENGTH' not in str(error.value)
  with pytest.raises(UserError, match='PROMPT_LENGTH=7. It is 11 wide'):
    saved.load(path, (13, 17))
  with pytest.raises(UserError, match=r'expected \[any, 17\]'):
    saved.load(path, (None, 17))
  assert saved.load(path, (None, H))[0].shape == (P, H)


@pytest.mark.parametrize(
  'content, text',
  [(b'{"a": ', 'is not JSON'), (b'[1]', 'a list'), (b'\xff', 'is not JSON')],
)
def test_a_sidecar_that_is_no_object_is_refused(tmp_path, content, text):
  np.save(tmp_path / 'a.npy', ARRAY)
  (tmp_path / 'a.json').write_bytes(content)
  with pytest.raises(UserError, match=f'a.json .*{text}.*one JSON object'):
    saved.load(tmp_path / 'a.npy')


def test_a_prompt_is_saved_under_npy(tmp_path):
  with pytest.raises(UserError, match='sst2.json; expected a name .* .npy'):
    saved.save(tmp_path / 'sst2.json', ARRAY, {})
  assert list(tmp_path.iterdir()) == []


def test_whenever_writing_stops_no_array_is_without_its_sidecar(
  tmp_path, monkeypatch
):
  """Stops before each call that reaches the disk, one after the other."""
  calls, limit = [], 0

  def stopping(real):
    def call(*args):
      if len(calls) == limit:
        raise KeyboardInterrupt
      calls.append(real)
      return real(*args)

    return call

  for name in ('fsync', 'replace'):
    monkeypatch.setattr(os, name, stopping(getattr(os, name)))
  seen = []
  for limit in range(5):  # 2 fsync and 2 replace: the last one is whole
    calls.clear()
    folder = tmp_path / str(limit)
    path = folder / 'a.npy'
    try:
      saved.save(path, ARRAY, SIDECAR)
    except KeyboardInterrupt:
      pass
    seen.append(sorted(child.name for child in folder.iterdir()))
  assert seen == [[], [], [], ['a.json'], ['a.json', 'a.npy']]


def test_a_write_that_fails_leaves_the_old_prompt(tmp_path):
  path = tmp_path / 'a.npy'
  saved.save(path, ARRAY, SIDECAR)
  with pytest.raises(TypeError):
    saved.save(path, ARRAY + 1, {'task': object()})
  array, sidecar = saved.load(path)
  np.testing.assert_array_equal(array, ARRAY)
  assert sidecar == SIDECAR and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
  'sidecar', [SIDECAR, None, {}, {'task': 'sst2'}, {'base_digest': 'b1'}]
)
def test_the_same_base_or_no_record_is_accepted(sidecar):
  saved.check_base(sidecar, 'b1', 'v1')


def test_another_base_or_vocabulary_is_named_with_both_digests():
  with pytest.raises(UserError) as error:
    saved.check_base(SIDECAR, 'b2', 'v1')
  assert 'base_digest b1, here it is b2' in str(error.value)
  assert 'vocabulary' not in str(error.value).split('.')[0]
  with pytest.raises(UserError, match='vocabulary_digest v1, here it is v2'):
    saved.check_base(SIDECAR, 'b1', 'v2')
  with pytest.raises(UserError, match='b1, .* b2; and with .* v1, .* is v2'):
    saved.check_base(SIDECAR, 'b2', 'v2')
  saved.check_base(SIDECAR, 'b2', 'v2', allow=True)
