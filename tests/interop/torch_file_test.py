"""Files of torch.save: read as torch reads them, and nothing is called."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.interop.torch_file import TorchFile
from tests.interop import torch_archive as archive

ROWS = np.arange(35, dtype=np.float32).reshape(5, 7)


def _refused(path, *words):
  with pytest.raises(UserError) as caught:
    TorchFile(path)
  for word in words:
    assert word in str(caught.value)


def test_a_tensor_alone(tmp_path):
  file = TorchFile(archive.write_arrays(tmp_path / 'a.pt', ROWS))
  assert list(file.tensors) == ['']
  found = file.read('')
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, ROWS)


def test_nested_dicts(tmp_path):
  value = archive.dict_(
    model=archive.dict_(one=archive.tensor([5, 7])),
    epoch=archive.number(3),
    other=archive.tensor([2], key='1', kind='HalfStorage'),
  )
  half = np.array([0.5, 3], np.float16)
  file = TorchFile(archive.write(tmp_path / 'a.pt', value, ROWS, half))
  assert list(file.tensors) == ['model.one', 'other']
  np.testing.assert_array_equal(file.read('model.one'), ROWS)
  np.testing.assert_array_equal(file.read('other'), half)


def test_views_of_a_storage(tmp_path):
  value = archive.dict_(
    turned=archive.tensor([7, 5], stride=[1, 7], count=35),
    part=archive.tensor([2, 3], stride=[7, 2], count=35, offset=8),
  )
  file = TorchFile(archive.write(tmp_path / 'a.pt', value, ROWS))
  np.testing.assert_array_equal(file.read('turned'), ROWS.T)
  np.testing.assert_array_equal(file.read('part'), ROWS[1:3, 1:7:2])


def test_the_byte_order_of_the_file(tmp_path):
  path = archive.write(
    tmp_path / 'a.pt',
    archive.tensor([5, 7]),
    ROWS.astype('>f4'),
    extra=[('byteorder', 'big')],
  )
  np.testing.assert_array_equal(TorchFile(path).read(''), ROWS)


class _Attack:
  """What a file may ask for: a call of any function."""

  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_a_malicious_pickle_is_not_executed(tmp_path, protocol):
  made = tmp_path / 'made'
  data = pickle.dumps({'prompt': _Attack(made)}, protocol)
  with zipfile.ZipFile(tmp_path / 'a.pt', 'w') as file:
    file.writestr('archive/data.pkl', data)
  _refused(tmp_path / 'a.pt', f'the {"" if protocol else "pickle opcode"}')
  if protocol:
    _refused(tmp_path / 'a.pt', f'the name {os.mkdir.__module__}.mkdir')
  assert not made.exists()
  pickle.loads(data)  # it would have done so
  assert made.exists()


@pytest.mark.parametrize(
  'value, words',
  [
    (b'cbuiltins\neval\n' + archive.tuple_(archive.text('1')) + b'R', 'eval'),
    (b'ctorch._utils\n_rebuild_tensor\n', 'torch._utils._rebuild_tensor;'),
    (b'(ios\nsystem\n', 'opcode INST'),
    (archive.text('f') + b')\x81', 'opcode NEWOBJ'),
    (archive.text('f') + b')R', 'a call of a str'),
    (b'ctorch\nFloatStorage\n)R', 'a call of torch.FloatStorage'),
    (b'(NNNNNtQ', 'a persistent object None'),
    (b']}b', 'attributes of a list'),
    (b')' + archive.text('a') + b'a', 'APPEND on a tuple'),
    (archive.tensor([5, 7], count=34), 'beyond its storage'),
    (archive.tensor([5, 7], offset=-1), 'of the layout'),
    (archive.tensor([999999, 7], stride=[0, 1], count=35), 'beyond'),
    (b'}q\x00' + archive.text('a') + b'h\x00s', 'one dict in two places'),
  ],
)
def test_what_is_refused(tmp_path, value, words):
  path = archive.write(tmp_path / 'a.pt', value, ROWS)
  _refused(path, words, 'expected tensors in plain dicts')


@pytest.mark.parametrize(
  'value',
  [b'', b'h\x05', b't', b'X\xff\xff\xff\x7f', archive.dict_() + b's'],
)
def test_a_damaged_pickle(tmp_path, value):
  path = archive.write(tmp_path / 'a.pt', value)
  _refused(path, 'could not be read', 'a zip archive since torch 1.6')


def test_a_file_that_is_no_archive(tmp_path):
  (tmp_path / 'a.pt').write_bytes(pickle.dumps([1]))
  _refused(tmp_path / 'a.pt', 'BadZipFile')
  with zipfile.ZipFile(tmp_path / 'b.pt', 'w') as file:
    file.writestr('readme', 'x')
  _refused(tmp_path / 'b.pt', '0 files <name>/data.pkl')
  path = archive.write(
    tmp_path / 'c.pt', archive.tensor([5, 7]), ROWS, compression=8
  )
  _refused(path, 'compressed')


def test_a_storage_that_is_short(tmp_path):
  path = archive.write(tmp_path / 'a.pt', archive.tensor([5, 7]), ROWS[:3])
  with pytest.raises(UserError, match='storage 0 has 84 bytes'):
    TorchFile(path).read('')


@pytest.mark.interop
@pytest.mark.slow
def test_what_torch_saves(torch_side, tmp_path):
  torch_side('save', tmp_path)
  files = {'protocol_4': 'state', 'state': 'state', 'module': 'module'}
  for name, wanted in {**files, 'alone': 'alone'}.items():
    file = TorchFile(tmp_path / f'{name}.pt')
    with np.load(tmp_path / f'{wanted}.npz') as stored:
      assert file.tensors.keys() == set(stored.files)
      for key in stored.files:
        found = file.read(key).astype(np.float64)
        np.testing.assert_array_equal(found, stored[key], key)
  assert TorchFile(tmp_path / 'state.pt').read('half').dtype == np.float16
  _refused(tmp_path / 'legacy.pt', 'zip archive since torch 1.6')
  _refused(tmp_path / 'whole_module.pt', 'torch.nn.modules.linear.Linear')
