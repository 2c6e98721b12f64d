"""The frozen base: found, compared by shape, read and cast, saved.

Four layouts give one flat dict under T5X's slash paths: T5X native ('t5x'),
T5X through Orbax ('orbax'), Hugging Face safetensors ('hf') and our own
('own': model.safetensors with slash paths and config.json).

Shapes are compared before any array is allocated, and arrays are cast one at
a time, so that memory never holds two copies of the base.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import re
import shutil
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from prompt_jax import params as params_lib
from prompt_jax.errors import UserError
from prompt_jax.t5 import hf_checkpoint, sizes, t5x_checkpoint
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.leaf import Leaf, dtype_named

_FORMAT = 'prompt_jax'
_DTYPES = ('float32', 'bfloat16')
_SHIPPED = pathlib.Path(__file__).parents[1] / 'assets' / 'models'
_LOGITS = hf_checkpoint.LOGITS

# A table per layer: scanned T5X trees, and umT5 in Hugging Face's names.
_PER_LAYER = re.compile(
  r'(encoder/encoder|decoder/decoder)/.*'
  r'|(en|de)coder\.block\.[1-9]\d*\.layer\.0\.SelfAttention'
  r'\.relative_attention_bias\.weight'
)


def load(
  path: str,
  expected: Mapping[str, Any],
  *,
  dtype: str | None = None,
  ignore: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Loads the weights of a base that must fit `expected` exactly.

  Args:
    path: a checkpoint folder of any of the four layouts; T5X's two may also
      be gs://bucket/...
    expected: {slash path: anything with .shape}; what the model is built of.
    dtype: 'float32' or 'bfloat16', given to every floating array; None keeps
      what is stored.
    ignore: regular expressions; a key of the checkpoint that one of them
      matches whole may be left over ('.*prompt.*').
  Returns: {slash path: array} with the keys of `expected`.
  Raises: UserError if there is no checkpoint, if it is torn, or if a key is
    missing, left over or of another shape (all are shown).
  """
  if dtype not in (None, *_DTYPES):
    raise UserError(
      f'The base was asked for in {dtype!r}; expected one of {_DTYPES}. T5 '
      'overflows in float16.'
    )
  return {
    key: _cast(array, dtype) for key, array in leaves(path, expected, ignore)
  }


def _fitting(path: str, expected: Mapping[str, Any], ignore: Sequence[str]):
  """The opened checkpoint, once its shapes are found to be the expected."""
  base = _open(path)
  found = {
    key: leaf
    for key, leaf in base.shapes.items()
    if key in expected or not any(re.fullmatch(row, key) for row in ignore)
  }
  _compare(f'{path} ({base.format})', expected, found)
  return base


def leaves(
  path: str, expected: Mapping[str, Any], ignore: Sequence[str] = ()
) -> Iterator[tuple[str, np.ndarray]]:
  """The weights of a base one after the other, as they are stored.

  Args, Raises: as `load`.
  Returns: (slash path, array) in sorted order of the paths; one array is in
    memory at a time unless the caller keeps it.
  """
  base = _fitting(path, expected, ignore)
  for key in sorted(expected):
    yield key, base.read(key)


def inspect(path: str) -> tuple[str, dict[str, Leaf]]:
  """What a checkpoint holds, without reading a weight.

  Returns: ('t5x' | 'orbax' | 'hf' | 'own', {slash path: shape and dtype}).
  Raises: UserError if there is no checkpoint, or a torn one.
  """
  base = _open(path)
  return base.format, base.shapes


def read(path: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
  """Reads some weights only, in the dtype they are stored in.

  Args:
    path: as in `load`.
    keys: slash paths, e.g. ['token_embedder/embedding'].
  Returns: {slash path: array}.
  Raises: UserError if a key is absent (shows the nearest).
  """
  base = _open(path)
  for key in keys:
    if key not in base.shapes:
      close = ', '.join(params_lib.nearest(key, list(base.shapes)))
      raise UserError(
        f'{path} ({base.format}) has no weight {key!r}; expected one of its '
        f'{len(base.shapes)} keys. Nearest: {close}.'
      )
  return {key: base.read(key) for key in keys}


def identity(path: str) -> dict[str, Any]:
  """What a manifest says about a base.

  Returns: {'source': absolute path or gs:// address, 'format': see `inspect`,
    'step': the optimizer's step when it was saved, or None if unknown}.
  """
  base = _open(path)
  source = str(path)
  if not source.startswith('gs://'):
    source = str(pathlib.Path(source).expanduser().resolve())
  return {'source': source, 'format': base.format, 'step': base.step}


def save(
  path: str, params: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
  """Writes weights in our own layout, whole or not at all.

  Args:
    path: the folder to make; must not exist.
    params: {slash path: array}.
    config: JSON values put into config.json, e.g. {'step': 1100000}.
  Raises: UserError if `path` exists.
  """
  folder = pathlib.Path(path).expanduser()
  if folder.exists():
    raise UserError(
      f'{folder} exists already; expected a new name for the base that is to '
      'be saved. Delete it or choose another name.'
    )
  # renaming is atomic only within one file system, hence a sibling
  part = folder.with_name(f'{folder.name}.tmp-{os.getpid()}')
  part.mkdir(parents=True)
  try:
    arrays = {key: np.asarray(leaf, order='C') for key, leaf in params.items()}
    save_file(arrays, part / 'model.safetensors')
    (part / 'model.safetensors').chmod(0o644)  # the library writes 0600
    text = json.dumps({**config, 'format': _FORMAT}, indent=2, sort_keys=True)
    (part / 'config.json').write_text(text + '\n')
    part.rename(folder)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise


def resolve(path: str) -> str:
  """The folder that a shipped name or a path stands for.

  Args:
    path: a path, gs:// address, or the name of a folder in assets/models.
  Returns: the shipped folder where `path` is a bare name of one and no such
    folder is here; else `path` as it is.
  """
  shipped = _SHIPPED / str(path)
  if os.sep not in str(path) and not os.path.exists(path) and shipped.is_dir():
    return str(shipped)
  return str(path)


def config_of(path: str, activation_dtype: str = 'float32') -> T5Config:
  """The shapes that the config.json of a base gives.

  Args:
    path: a folder in our own layout or Hugging Face's.
    activation_dtype: see `T5Config`.
  Raises: UserError if the folder does not say (T5X checkpoints do not).
  """
  folder = pathlib.Path(resolve(path)).expanduser()
  if not (folder / 'config.json').is_file():
    raise UserError(
      f'{folder} has no config.json that tells the shapes of the model; '
      'expected our own layout or a Hugging Face folder. Give the shapes '
      '(config=..., or a gin model file).'
    )
  found = hf_checkpoint.read_json(folder / 'config.json')
  if found.get('format') == _FORMAT:
    return T5Config(**found['t5'], activation_dtype=activation_dtype)
  return T5Config(
    **hf_checkpoint.shapes(found), activation_dtype=activation_dtype
  )


class _T5X:
  """The weights of a T5X checkpoint; its optimizer is left alone."""

  def __init__(self, path: str):
    self._checkpoint = t5x_checkpoint.Checkpoint(path)
    stored = self._checkpoint.shapes
    weights = [key for key in stored if key.startswith('target/')]
    self._checkpoint.check_chunks(weights)
    self.format = self._checkpoint.format
    self.shapes = {key.removeprefix('target/'): stored[key] for key in weights}

  @property
  def step(self) -> int | None:
    return self._checkpoint.step

  def read(self, key: str) -> np.ndarray:
    return self._checkpoint.read(f'target/{key}')


class _Own:
  """A folder that `save` wrote."""

  format = 'own'

  def __init__(self, folder: pathlib.Path, config: Mapping[str, Any]):
    shards = hf_checkpoint.Shards(folder)
    self.shapes, self.read = shards.shapes, shards.read
    self.step = config.get('step')


def _open(path: str) -> _T5X | _Own | hf_checkpoint.Checkpoint:
  """Tells the layout of a folder by the files in it."""
  path = resolve(path)
  if path.startswith('gs://'):
    return _T5X(path)
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    raise UserError(_not_a_folder(folder))
  if (folder / 'checkpoint').exists() or (folder / 'state').exists():
    return _T5X(str(folder))
  if list(folder.glob('model*.safetensors*')):
    config = hf_checkpoint.read_json(folder / 'config.json')
    if config.get('format') == _FORMAT:
      return _Own(folder, config)
    return hf_checkpoint.Checkpoint(folder)
  hf_checkpoint.refuse_pickles(folder)
  return _T5X(str(folder))  # says what is there instead


def _not_a_folder(path: pathlib.Path) -> str:
  if path.exists():
    return (
      f'{path} is a file; expected the folder of a checkpoint. Give '
      f'{path.parent}.'
    )
  there = path.parent
  while not there.is_dir():
    there = there.parent
  beside = params_lib.nearest(path.name, sorted(os.listdir(there)))
  names = ', '.join(str(there / name) for name in beside) or 'nothing'
  return (
    f'There is no checkpoint {path}; expected the folder of a base (T5X, '
    f'Hugging Face or our own). In {there} there is: {names}.'
  )


def _cast(array: np.ndarray, dtype: str | None) -> np.ndarray:
  # ml_dtypes' bfloat16 is not a np.floating, so integers are told apart
  if dtype is None or array.dtype.kind in 'biu':
    return array
  return array.astype(dtype_named(dtype), copy=False)


def _compare(where: str, expected, found) -> None:
  """Raises UserError, with a diff and advice, unless the shapes agree."""
  scanned = sorted(key for key in found if _PER_LAYER.fullmatch(key))
  if scanned:
    raise UserError(
      f'{where} holds {scanned[0]}: a scanned tree or umT5, with one relative '
      'position table per layer. Expected one table per stack, as public T5, '
      'T5 1.1, mT5 and ByT5 have; a table per layer cannot be turned into '
      'that. Take the unscanned checkpoint (keys encoder/layers_0/...).'
    )
  lines = params_lib.difference(expected, found, limit=8)
  if lines:
    advice = ' '.join(_advice(expected, found))
    diff = '\n  '.join(lines)
    raise UserError(
      f'{where} does not fit the model that was built; expected every key and '
      f'shape to agree:\n  {diff}\n{advice}'
    )


def _advice(expected, found) -> list[str]:
  """What to do about shapes that differ; the likeliest cause first."""
  want, got = sizes.sizes(expected), sizes.sizes(found)
  wrong = [name for name in want if name in got and want[name] != got[name]]
  advice = []
  if 'NUM_EMBEDDINGS' in wrong:
    advice.append(
      f'The vocabulary does not match: the checkpoint has '
      f'{got["NUM_EMBEDDINGS"]} rows, NUM_EMBEDDINGS is '
      f'{want["NUM_EMBEDDINGS"]}. Use the model file that has the vocabulary '
      'of this checkpoint.'
    )
  others = [name for name in wrong if name != 'NUM_EMBEDDINGS']
  turned = _transposed(expected, found)
  if turned:
    advice.append(
      f'{turned[0]} is transposed: kernels are [in, out] here. Save it the '
      'other way round.'
    )
  elif others:
    pairs = ', '.join(f'{n}={got[n]} (model: {want[n]})' for n in others)
    file = sizes.model_file(got)
    use = f'use models/{file}.gin' if file else 'use a model file of that size'
    advice.append(f'The model size differs: the checkpoint has {pairs}; {use}.')
  if (_LOGITS in expected) != (_LOGITS in found):
    advice.append(
      f'{_LOGITS} is in only one of the two: T5 1.0 ties the logits to the '
      'embedding, T5 1.1, mT5 and ByT5 do not; use the model file of the '
      'other family.'
    )
  return advice or [
    'Check that the checkpoint is of this model and whole; keys that may be '
    'left over (a prompt, say) have to be named in `ignore`.'
  ]


def _transposed(expected, found) -> list[str]:
  """The mis-shaped keys, if every one of them is merely transposed."""
  shapes = {
    key: (tuple(expected[key].shape), tuple(found[key].shape))
    for key in sorted(expected.keys() & found.keys())
  }
  wrong = {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}
  turned = all(want == got[::-1] for want, got in wrong.values())
  return list(wrong) if turned else []


def shapes_of(config: T5Config) -> dict[str, Any]:
  """What config.json says of a model: all of T5Config but run-time choices."""
  chosen = ('activation_dtype', 'frozen_dtype', 'remat', 'dropout_rate')
  fields = dataclasses.asdict(config)
  return {k: v for k, v in fields.items() if k not in chosen and v is not None}
