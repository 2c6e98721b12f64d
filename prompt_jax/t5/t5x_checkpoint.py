"""Checkpoints of T5X on disk or in a bucket, read without T5X.

Native layout (version 3): a msgpack tree in the file `checkpoint`; a leaf is an
array, nil, or the name of a zarr v2 folder beside it. Orbax layout: the same
zarr arrays as keys of one OCDBT store in `state/`. Both give one flat dict:

    target/<path>                        the weights
    state/step, state/param_states/...   the optimizer

Nothing is unpickled: neither layout holds a pickle.
Source: google-research/t5x, checkpoints.py, VERSION 3 (2021-06-10).
"""

import itertools
import json
import math
import pathlib
import re
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5.leaf import Leaf, dtype_named

# What tensorstore raises for a status that is not OK.
_STATUS = (ValueError, OSError, RuntimeError, IndexError)

# Ext codes of flax.serialization.
_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3


class Checkpoint:
  """One T5X checkpoint, opened: the index is known, no zarr array is read.

  Args:
    path: the folder checkpoint_<step>, local or gs://bucket/...
  Attributes:
    format: 't5x' (native) or 'orbax'.
    shapes: {slash path: Leaf} of every leaf; nil leaves are left out.
  Raises: UserError if the folder holds no T5X checkpoint or a torn one.
  """

  def __init__(self, path: str):
    self.path = str(path)
    root = _Store(self.path, _location(self.path))
    index = root.get('checkpoint')
    if index is not None:
      self.format, self._store = 't5x', root
      self._inline, self._folders = _native_index(index, self.path)
    elif (index := root.get('state/_METADATA')) is not None:
      location = {'driver': 'ocdbt', 'base': root.location('state')}
      self.format = 'orbax'
      self._store = _Store(_join(self.path, 'state'), location)
      self._inline, self._folders = {}, _orbax_index(index, self.path)
    else:
      raise UserError(_nothing_here(self.path, root.folders()))
    self._zarrays = self._store.zarrays(self._folders)
    for key, zarray in self._zarrays.items():
      if zarray.leaf.dtype == np.uint16:
        raise UserError(
          f'{self.path} stores {key} as uint16, as T5X did with bfloat16 '
          'before June 2021; expected bfloat16 or float32. Take a newer copy '
          'of this model.'
        )
    self.shapes = {
      **{key: Leaf(x.shape, x.dtype) for key, x in self._inline.items()},
      **{key: zarray.leaf for key, zarray in self._zarrays.items()},
    }

  @property
  def step(self) -> int | None:
    """The optimizer's step, in steps since pretraining began, if stored."""
    if 'state/step' not in self.shapes:
      return None
    return int(self.read('state/step').reshape(()))

  def check_chunks(self, keys) -> None:
    """Refuses a checkpoint of which a chunk file is missing.

    zarr reads a missing chunk as its fill value, so a copy that broke off
    would give zeros for weights without a word.

    Args:
      keys: slash paths that are going to be read.
    Raises: UserError that names the first missing files.
    """
    names = self._store.names()
    wanted = itertools.chain.from_iterable(
      self._zarrays[key].chunks(self._folders[key])
      for key in keys
      if key in self._folders
    )
    missing = [name for name in wanted if name not in names]
    if missing:
      raise UserError(
        f'{self._store.path} lacks {len(missing)} chunk files, the first: '
        f'{", ".join(missing[:3])}. Every chunk that a .zarray announces has '
        'to be there; the copy of this checkpoint broke off. Copy it again.'
      )

  def read(self, key: str) -> np.ndarray:
    """Reads one leaf whole, in the dtype it is stored in.

    Args:
      key: slash path, one of `shapes`.
    Returns: array of the shape in `shapes`.
    Raises: UserError if the key is absent or the file is damaged.
    """
    if key in self._inline:
      return self._inline[key]
    if key not in self._folders:
      close = ', '.join(params.nearest(key, list(self.shapes)))
      raise UserError(
        f'{self.path} has no leaf {key!r}; expected one of its '
        f'{len(self.shapes)} keys. Nearest: {close}.'
      )
    self.check_chunks([key])
    return self._store.read(self._folders[key])


def shapes(path: str) -> dict[str, Leaf]:
  """{slash path: Leaf} of all leaves of a T5X checkpoint; reads no weights."""
  return Checkpoint(path).shapes


def read_array(path: str, key: str) -> np.ndarray:
  """One leaf of a T5X checkpoint by its slash path ('target/...')."""
  return Checkpoint(path).read(key)


def read_state(path: str) -> dict[str, np.ndarray]:
  """All leaves of a T5X checkpoint, optimizer included; nil leaves left out.

  Args:
    path: the folder checkpoint_<step>, local or gs://bucket/...
  Returns: {slash path: array} with the keys target/... and state/...
  Raises: UserError if there is no checkpoint, or a torn one.
  """
  checkpoint = Checkpoint(path)
  return {key: checkpoint.read(key) for key in sorted(checkpoint.shapes)}


class _Zarray:
  """A .zarray file: shape, dtype and chunk grid of one array."""

  def __init__(self, text: bytes):
    meta = json.loads(text)
    self.leaf = Leaf(tuple(meta['shape']), dtype_named(meta['dtype']))
    self._grid = tuple(meta['chunks'])
    self._separator = meta.get('dimension_separator', '.')

  def chunks(self, folder: str):
    """The names of all chunk files of the array in `folder`."""
    sizes = zip(self.leaf.shape, self._grid, strict=True)
    grid = [range(math.ceil(size / chunk)) for size, chunk in sizes]
    for index in itertools.product(*grid):
      # an array without axes keeps its one chunk in the file '0'
      yield f'{folder}/{self._separator.join(map(str, index)) or "0"}'


class _Store:
  """The files below a folder or a bucket prefix, or the keys of an OCDBT."""

  def __init__(self, path: str, location: dict[str, Any]):
    self.path, self._location = path, location
    try:
      self._keys = ts.KvStore.open(location).result()
    except _STATUS as error:
      raise UserError(_unreadable(path, error)) from error
    self._names: set[str] | None = None

  def location(self, folder: str) -> dict[str, Any]:
    """The tensorstore spec of a folder in this store."""
    below = self._location.get('path', '') + folder + '/'
    return {**self._location, 'path': below}

  def get(self, name: str) -> bytes | None:
    """The bytes of one file, or None if there is no such file."""
    try:
      found = self._keys.read(name).result()
    except _STATUS as error:
      raise UserError(_unreadable(_join(self.path, name), error)) from error
    return found.value if found.state == 'value' else None

  def names(self) -> set[str]:
    """All file names, relative; listed once."""
    if self._names is None:
      try:
        listed = self._keys.list().result()
      except _STATUS as error:
        raise UserError(_unreadable(self.path, error)) from error
      self._names = {name.decode() for name in listed}
    return self._names

  def folders(self) -> set[str]:
    """The first parts of the file names; a local tree is not walked."""
    if self._location['driver'] == 'file':
      place = pathlib.Path(self._location['path'])
      return (
        {child.name for child in place.iterdir()} if place.is_dir() else set()
      )
    return {name.split('/')[0] for name in self.names()}

  def zarrays(self, folders: dict[str, str]) -> dict[str, _Zarray]:
    """{key: _Zarray} for {key: folder}; the requests run side by side."""
    waiting = {
      key: self._keys.read(f'{folder}/.zarray')
      for key, folder in folders.items()
    }
    found = {}
    for key, answer in waiting.items():
      name = _join(self.path, f'{folders[key]}/.zarray')
      try:
        result = answer.result()
        if result.state != 'value':
          raise FileNotFoundError('no such file')
        found[key] = _Zarray(result.value)
      except (*_STATUS, KeyError, TypeError) as error:
        raise UserError(_unreadable(name, error)) from error
    return found

  def read(self, folder: str) -> np.ndarray:
    """The whole zarr array in `folder`."""
    spec = {'driver': 'zarr', 'kvstore': self.location(folder)}
    try:
      return ts.open(spec, open=True, read=True).result().read().result()
    except _STATUS as error:
      raise UserError(_unreadable(_join(self.path, folder), error)) from error


def _location(path: str) -> dict[str, Any]:
  """The tensorstore spec of a folder given by a local path or gs:// address.

  What a checkpoint itself says about its place is never used: T5X writes a
  dummy bucket, and the folder may have been moved.
  """
  if path.startswith('gs://'):
    bucket, _, prefix = path.removeprefix('gs://').partition('/')
    prefix = prefix.rstrip('/') + '/' if prefix.strip('/') else ''
    return {'driver': 'gcs', 'bucket': bucket, 'path': prefix}
  return {'driver': 'file', 'path': f'{pathlib.Path(path).resolve()}/'}


def _join(path: str, name: str) -> str:
  return f'{path.rstrip("/")}/{name}'


def _native_index(index: bytes, path: str):
  """The file `checkpoint` -> ({key: array}, {key: zarr folder})."""
  where = _join(path, 'checkpoint')
  if index.startswith(b'model_checkpoint_path'):
    raise UserError(
      f'{where} is the index of a TensorFlow checkpoint; expected one that '
      'T5X wrote. Convert it with T5X (convert_tf_checkpoint), or take the '
      'T5X or Hugging Face version of this model.'
    )
  try:
    tree = msgpack.unpackb(
      index, ext_hook=_extension, raw=False, strict_map_key=False
    )
    version, tree = tree['version'], tree['optimizer']
  except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
    raise UserError(_unreadable(where, error)) from error
  if version not in (2, 3):  # 2 differs in its uint16 arrays only
    raise UserError(
      f'{where} is of version {version!r}; expected 3, which T5X writes since '
      'June 2021. Load and save it once with a current T5X.'
    )
  inline: dict[str, np.ndarray] = {}
  folders: dict[str, str] = {}

  def walk(node, key):
    if node is None:  # a parameter that no optimizer owns
      return
    if isinstance(node, dict) and 'driver' in node and 'kvstore' in node:
      folders[key] = _folder(node, key, where)
    elif isinstance(node, dict) and '__msgpack_chunked_array__' in node:
      inline[key] = _joined(node)
    elif isinstance(node, dict):
      for name, child in node.items():
        walk(child, f'{key}/{name}' if key else str(name))
    else:
      inline[key] = np.asarray(node)

  walk(tree, '')
  return inline, folders


def _extension(code: int, payload: bytes) -> np.ndarray:
  """Decodes flax's msgpack extensions: arrays, complex numbers, scalars."""
  if code == _COMPLEX:
    return np.asarray(complex(*msgpack.unpackb(payload)))
  if code not in (_NDARRAY, _SCALAR):
    raise ValueError(f'msgpack extension {code} is unknown')
  shape, name, data = msgpack.unpackb(payload, raw=True)
  flat = np.frombuffer(data, dtype_named(name.decode()))
  return flat.reshape(shape)


def _joined(node: dict[str, Any]) -> np.ndarray:
  """One array out of the pieces that flax cuts arrays above 1 GiB into."""
  ordered = lambda part: [part[str(i)] for i in range(len(part))]
  pieces = [piece.reshape(-1) for piece in ordered(node['chunks'])]
  return np.concatenate(pieces).reshape(ordered(node['shape']))


def _folder(spec: dict[str, Any], key: str, where: str) -> str:
  """The zarr folder a stored tensorstore spec names, relative."""
  # tensorstore before 0.1.14 kept the path beside the kvstore
  folder = spec['kvstore'].get('path') or spec.get('path') or ''
  folder = folder.strip('/')
  if not folder or '..' in folder.split('/'):
    raise UserError(
      f'{where} puts {key} at {folder!r}; expected the name of a folder '
      'beside it. The file is damaged or not from T5X; copy it again.'
    )
  return folder


def _orbax_index(index: bytes, path: str) -> dict[str, str]:
  """The file `state/_METADATA` -> {key: zarr folder}."""
  where = _join(path, 'state/_METADATA')
  try:
    metadata = json.loads(index)
    rows = metadata['tree_metadata'].values()
    names = [
      [str(part['key']) for part in row['key_metadata']]
      for row in rows
      if not row['value_metadata']['skip_deserialize']  # None and empty dicts
    ]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(_unreadable(where, error)) from error
  if metadata.get('use_zarr3') or not metadata.get('use_ocdbt', True):
    raise UserError(
      f'{where} describes {"zarr 3" if metadata.get("use_zarr3") else "plain"}'
      ' arrays; expected zarr 2 in OCDBT, which T5X writes. Save the '
      'checkpoint with T5X, or with Orbax at its defaults.'
    )
  return {'/'.join(parts): '.'.join(parts) for parts in names}


def _unreadable(name: str, error: Exception) -> str:
  advice = (
    'check the name and that this machine may read the bucket '
    '(gcloud auth application-default login)'
    if name.startswith('gs://')
    else 'the copy broke off or the disk is full; copy it again'
  )
  reason = ' '.join(str(error).split())[:300]
  return (
    f'{name} could not be read: {type(error).__name__}: {reason}. Expected a '
    f'whole file as T5X wrote it; {advice}.'
  )


def _nothing_here(path: str, folders: set[str]) -> str:
  """The message for a folder without a checkpoint right inside it."""
  steps = [name for name in folders if re.fullmatch(r'checkpoint_\d+', name)]
  steps.sort(key=lambda name: int(name.removeprefix('checkpoint_')))
  if steps:
    return (
      f'{path} is a run with {len(steps)} checkpoints; expected one of them. '
      f'Choose: {", ".join(_join(path, step) for step in steps)}.'
    )
  return (
    f'{path} holds no T5X checkpoint; expected the file "checkpoint" (native) '
    'or "state/_METADATA" (Orbax) in it. Give the folder checkpoint_<step>.'
  )
