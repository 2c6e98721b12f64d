"""Files of `torch.save`, read without torch and without unpickling.

    <name>/data.pkl   a pickle: dicts of tensors, as views of storages
    <name>/data/<k>   the bytes of storage k, uncompressed
    <name>/byteorder  'little' or 'big'; older files are little

Unpickling runs whatever a file asks for. Here the opcodes are read by a
small machine that knows plain containers and the names that a tensor needs;
it calls nothing, and any other opcode or name is an error.
Source: pytorch, torch/serialization.py and torch/_utils.py; Python,
pickletools. Departures: files of torch before 1.6, which are no zip archives,
and compressed ones are refused.
"""

import dataclasses
import math
import pathlib
import pickletools
from typing import Any
import zipfile

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.t5.leaf import dtype_named

_STORAGES = {
  'torch.DoubleStorage': 'float64',
  'torch.FloatStorage': 'float32',
  'torch.HalfStorage': 'float16',
  'torch.BFloat16Storage': 'bfloat16',
  'torch.LongStorage': 'int64',
  'torch.IntStorage': 'int32',
  'torch.ShortStorage': 'int16',
  'torch.CharStorage': 'int8',
  'torch.ByteStorage': 'uint8',
  'torch.BoolStorage': 'bool',
}
_TENSOR = 'torch._utils._rebuild_tensor_v2'
_PARAMETER = 'torch._utils._rebuild_parameter'
_DICT = 'collections.OrderedDict'
_NAMES = {*_STORAGES, _TENSOR, _PARAMETER, _DICT}

_LONGEST = 64 * 2**20  # bytes of a pickle; that of a whole T5 is below one MB

_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_VALUES = {  # opcodes whose argument is the value
  *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE'),
  *('SHORT_BINUNICODE', 'BINUNICODE8', 'SHORT_BINBYTES', 'BINBYTES'),
}
_TUPLES = {'EMPTY_TUPLE': 0, 'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class _Refused(Exception):
  """What a file asks for and may not have."""


class _Name(str):
  """A global that the pickle names; never looked up, never called."""


class _Mark:
  """Where the arguments of the next collection begin."""


@dataclasses.dataclass(frozen=True)
class _Storage:
  dtype: str
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage: element i is at offset + sum(i * stride)."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]

  def __post_init__(self):
    whole = (self.offset, self.storage.count, *self.shape, *self.stride)
    if not all(type(n) is int and n >= 0 for n in whole):
      raise _Refused(f'a tensor of the layout {whole}')
    steps = zip(self.shape, self.stride, strict=True)
    last = self.offset + sum((n - 1) * step for n, step in steps)
    size = math.prod(self.shape)
    # strides of 0 would make a large array of a small file
    if size and (last >= self.storage.count or size > self.storage.count):
      raise _Refused(f'a tensor {list(self.shape)} beyond its storage')


class TorchFile:
  """One file, opened: its tensors are known, no storage is read.

  Args:
    path: a file that torch.save wrote.
  Attributes:
    tensors: {name: Tensor}; names within nested dicts are joined by dots, and
      a tensor that is the whole file is called ''.
  Raises: UserError if the file is no such archive, is damaged, or names
    anything but tensors.
  """

  def __init__(self, path: str | pathlib.Path):
    self.path = str(path)
    try:
      self._archive = zipfile.ZipFile(path)
      names = self._archive.namelist()
      pickles = [n for n in names if n.split('/')[1:] == ['data.pkl']]
      if len(pickles) != 1:
        raise _Refused(f'{len(pickles)} files <name>/data.pkl')
      self._root = pickles[0].removesuffix('data.pkl')
      self._order = '<'
      if f'{self._root}byteorder' in names:
        self._order = '>' if self._bytes('byteorder', 16) == b'big' else '<'
      tree = _value(self._bytes('data.pkl', _LONGEST))
      self.tensors: dict[str, Tensor] = {}
      _walk(tree, '', self.tensors, set())
    except _Refused as error:
      raise UserError(
        f'{path} holds {error}; expected tensors in plain dicts, as '
        'torch.save(model.state_dict(), ...) writes them. A file may ask for '
        'any function when it is unpickled, so nothing else is read: load it '
        'where you trust it and save its tensors alone.'
      ) from error
    except _DAMAGED as error:
      raise UserError(_unreadable(path, error)) from error

  def read(self, name: str) -> np.ndarray:
    """One tensor as an array of its own, in the dtype it is stored in."""
    tensor = self.tensors[name]
    storage = tensor.storage
    dtype = dtype_named(storage.dtype).newbyteorder(self._order)
    try:
      data = self._bytes(f'data/{storage.key}', storage.count * dtype.itemsize)
      if len(data) != storage.count * dtype.itemsize:
        raise ValueError(f'storage {storage.key} has {len(data)} bytes')
    except (_Refused, *_DAMAGED) as error:
      raise UserError(_unreadable(self.path, error)) from error
    view = np.lib.stride_tricks.as_strided(
      np.frombuffer(data, dtype)[tensor.offset :],
      tensor.shape,
      [step * dtype.itemsize for step in tensor.stride],
    )
    return np.array(view, dtype.newbyteorder('='), order='C')

  def _bytes(self, name: str, longest: int) -> bytes:
    entry = self._archive.getinfo(self._root + name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > longest:
      raise _Refused(f'{name}, compressed or longer than it may be')
    return self._archive.read(entry)


# What zipfile, pickletools and wrong operands on the stack raise.
_DAMAGED = (
  *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError),
  *(AttributeError, RuntimeError, zipfile.BadZipFile),
)


def _unreadable(path, error: Exception) -> str:
  return (
    f'{path} could not be read: {type(error).__name__}: {error}. Expected a '
    'whole file of torch.save, a zip archive since torch 1.6; copy it again, '
    'or load and save it once with a newer torch where you trust it.'
  )


def _value(pickle: bytes) -> Any:
  """What a pickle describes, without calling anything."""
  stack: list[Any] = []
  memo: dict[int, Any] = {}

  def above() -> list[Any]:
    """Takes what stands above the last mark, and the mark."""
    at = max(i for i, x in enumerate(stack) if isinstance(x, _Mark))
    taken = stack[at + 1 :]
    del stack[at:]
    return taken

  for opcode, argument, _ in pickletools.genops(pickle):
    name = opcode.name
    if name in ('PROTO', 'FRAME'):
      continue
    if name == 'STOP':
      return stack.pop()
    if name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _VALUES:
      stack.append(argument)
    elif name in ('EMPTY_DICT', 'EMPTY_LIST', 'MARK'):
      made = {'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'MARK': _Mark}[name]
      stack.append(made())
    elif name == 'TUPLE':
      stack.append(tuple(above()))
    elif name in _TUPLES:
      at = len(stack) - _TUPLES[name]
      stack[at:] = [tuple(stack[at:])]
    elif name in ('BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
      memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in ('BINGET', 'LONG_BINGET'):
      stack.append(memo[argument])
    elif name in ('SETITEM', 'SETITEMS', 'APPEND', 'APPENDS'):
      many = {'SETITEM': 2, 'APPEND': 1}.get(name)
      items = above() if many is None else [stack.pop() for _ in range(many)]
      _fill(stack[-1], items if many is None else items[::-1], name)
    elif name in ('GLOBAL', 'STACK_GLOBAL'):
      parts = argument.split(' ') if argument else [stack.pop(), stack.pop()]
      stack.append(_named('.'.join(parts if argument else parts[::-1])))
    elif name == 'BINPERSID':
      stack.append(_storage(stack.pop()))
    elif name in ('REDUCE', 'BUILD'):
      operand = stack.pop()
      stack.append(_REDUCED[name](stack.pop(), operand))
    else:
      raise _Refused(f'the pickle opcode {name}')
  raise EOFError('the pickle has no end')


def _named(name: str) -> _Name:
  if name not in _NAMES:
    raise _Refused(f'the name {name}')
  return _Name(name)


def _fill(container, items, name: str) -> None:
  """Puts items into a list or, two by two, into a dict."""
  wanted = dict if name.startswith('SET') else list
  if type(container) is not wanted:
    raise _Refused(f'{name} on a {type(container).__name__}')
  if wanted is list:
    container.extend(items)
  else:
    container.update(zip(items[::2], items[1::2], strict=True))


def _storage(identity) -> _Storage:
  """('storage', type, key, device, number of elements) -> _Storage."""
  kind, dtype, key, _, count = identity
  if kind != 'storage' or not isinstance(dtype, _Name):
    raise _Refused(f'a persistent object {kind!r}')
  return _Storage(_STORAGES[dtype], str(key), count)


def _made(name, arguments) -> Any:
  """What torch or Python would make of a name and its arguments."""
  if not isinstance(name, _Name):
    raise _Refused(f'a call of a {type(name).__name__}')
  if name == _TENSOR:
    storage, offset, shape, stride, *_ = arguments
    if not isinstance(storage, _Storage):
      raise _Refused(f'a tensor of a {type(storage).__name__}')
    return Tensor(storage, offset, tuple(shape), tuple(stride))
  if name == _PARAMETER:
    return arguments[0]
  if name == _DICT:
    return dict(*arguments)
  raise _Refused(f'a call of {name}')


def _built(thing, state) -> Any:
  """An object that is given attributes: only a dict, which has none here."""
  del state  # the version numbers of a state_dict
  if type(thing) is not dict:
    raise _Refused(f'attributes of a {type(thing).__name__}')
  return thing


_REDUCED = {'REDUCE': _made, 'BUILD': _built}


def _walk(node, name: str, found: dict[str, Tensor], seen: set[int]) -> None:
  """Collects the tensors of nested dicts under dotted names."""
  if isinstance(node, Tensor):
    found[name] = node
  elif isinstance(node, dict):
    # dicts that share dicts have names without number, or without end
    if id(node) in seen:
      raise _Refused('one dict in two places')
    seen.add(id(node))
    for key, child in node.items():
      _walk(child, f'{name}.{key}' if name else str(key), found, seen)
