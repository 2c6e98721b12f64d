"""Files as torch.save writes them, made opcode by opcode without torch."""

import struct
import zipfile

import numpy as np

_STORAGES = {'float32': 'FloatStorage', 'float16': 'HalfStorage'}
_EMPTY_DICT = b'ccollections\nOrderedDict\n)R'


def text(value: str) -> bytes:
  raw = value.encode()
  return b'X' + struct.pack('<I', len(raw)) + raw


def number(value: int) -> bytes:
  return b'J' + struct.pack('<i', value)


def tuple_(*parts: bytes) -> bytes:
  return b'(' + b''.join(parts) + b't'


def tensor(shape, stride=None, key='0', count=None, offset=0, kind=None):
  """The opcodes of a tensor; its storage has `count` elements."""
  whole = int(np.prod(shape))
  stride = stride or [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
  storage = b'ctorch\n' + (kind or 'FloatStorage').encode() + b'\n'
  size = number(whole if count is None else count)
  identity = tuple_(text('storage'), storage, text(key), text('cuda:0'), size)
  view = [tuple_(*map(number, shape)), tuple_(*map(number, stride))]
  arguments = (identity + b'Q', number(offset), *view, b'\x89', _EMPTY_DICT)
  return b'ctorch._utils\n_rebuild_tensor_v2\n' + tuple_(*arguments) + b'R'


def dict_(**values: bytes) -> bytes:
  return b'}(' + b''.join(text(k) + v for k, v in values.items()) + b'u'


def write(path, value: bytes, *storages, extra=(), compression=0) -> str:
  """An archive of one pickled value and the bytes of its storages."""
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('archive/data.pkl', b'\x80\x02' + value + b'.')
    for i, array in enumerate(storages):
      archive.writestr(f'archive/data/{i}', array.tobytes())
    for name, data in extra:
      archive.writestr(f'archive/{name}', data)
  return str(path)


def write_arrays(path, arrays) -> str:
  """An archive of {name: array}, or of one array."""
  if isinstance(arrays, np.ndarray):
    kind = _STORAGES[arrays.dtype.name]
    return write(path, tensor(arrays.shape, kind=kind), arrays)
  values = {
    name: tensor(x.shape, key=str(i), kind=_STORAGES[x.dtype.name])
    for i, (name, x) in enumerate(arrays.items())
  }
  return write(path, dict_(**values), *arrays.values())
