"""A saved prompt: `<task>.npy`, float32 [P,H], and its sidecar `<task>.json`.

The array has the format of the prompts that Lester et al. 2021 released, so
that any of them can be read and any tool that reads them can read ours. The
sidecar says what an array cannot: which model and vocabulary it belongs to.
"""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError

_BASE, _VOCABULARY = 'base_digest', 'vocabulary_digest'


def load(
  path: str | os.PathLike, shape: tuple[int | None, int | None] | None = None
) -> tuple[np.ndarray, dict[str, Any] | None]:
  """Reads a saved prompt and its sidecar.

  Args:
    path: an .npy file under any name; T5X's own has no suffix
      ('encoder.prompt.prompt.prompt').
    shape: (P, H) it must have; None, whole or in a place, takes any.
  Returns: (float32[P,H], sidecar, None if there is no sidecar).
  Raises: UserError if the file is missing, is not a finite float array of two
    axes, or has another shape; if the sidecar is not a JSON object.
  Source: released code of Lester et al. 2021, its numpy checkpoints.
  Departures: pickled arrays are refused, and what is read is checked.
  """
  path = pathlib.Path(path)
  array = _checked(read_array(path), path)
  if shape is not None:
    _fit(array.shape, shape, path)
  return array, _read_sidecar(_beside(path))


def save(
  path: str | os.PathLike, array: Any, sidecar: Mapping[str, Any]
) -> None:
  """Writes `<task>.npy` and `<task>.json`, each whole or not at all.

  Both are written under other names first, then renamed, the sidecar before
  the array: whenever it stops, no array stands there without its sidecar.

  Args:
    path: '<folder>/<task>.npy'; the folder is made if need be.
    array: float[P,H], stored as float32 in C order.
    sidecar: what JSON can hold. `check_base` reads 'base_digest' and
      'vocabulary_digest'.
  Raises: UserError if the path does not end in .npy or the array is not a
    finite float array of two axes (nothing is written).
  """
  path = pathlib.Path(path)
  if path.suffix != '.npy':
    raise UserError(
      f'A prompt was to be saved as {path}; expected a name that ends in '
      '.npy, e.g. sst2.npy. Its sidecar gets the same name with .json.'
    )
  array = _checked(np.asarray(array), path)
  text = json.dumps(dict(sidecar), indent=2, sort_keys=True) + '\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  new = {
    _beside(path): lambda file: file.write(text.encode()),
    path: lambda file: np.save(file, array, allow_pickle=False),
  }
  temporary = {
    name: name.with_name(f'.{name.name}.{os.getpid()}.new') for name in new
  }
  try:
    for name, write in new.items():
      with open(temporary[name], 'wb') as file:
        write(file)
        file.flush()
        # a rename may reach the disk before the bytes it names
        os.fsync(file.fileno())
    for name in new:
      os.replace(temporary[name], name)
  finally:
    for name in temporary.values():
      name.unlink(missing_ok=True)


def check_base(
  sidecar: Mapping[str, Any] | None,
  base_digest: str,
  vocabulary_digest: str,
  allow: bool = False,
  path: str | os.PathLike | None = None,
) -> None:
  """Refuses a prompt that was trained on another base or vocabulary.

  Args:
    sidecar: as `load` returns it. What it does not say is not checked; the
      released prompts have none.
    base_digest: of the base in use.
    vocabulary_digest: of the vocabulary in use.
    allow: true accepts any prompt.
    path: of the prompt, for the message.
  Raises: UserError that names both digests of whatever differs.
  """
  if allow or sidecar is None:
    return
  here = {_BASE: base_digest, _VOCABULARY: vocabulary_digest}
  other = [
    f'{name} {sidecar[name]}, here it is {digest}'
    for name, digest in here.items()
    if sidecar.get(name) not in (None, digest)
  ]
  if other:
    raise UserError(
      f'{path or "The prompt"} was saved with {"; and with ".join(other)}. A '
      'prompt works only with the weights and the vocabulary it was trained '
      'on: load those (its sidecar names them), or pass allow_other_base=True '
      '(--gin.ALLOW_OTHER_BASE=True) to try it all the same.'
    )


def sidecar_of(path: str | os.PathLike) -> dict[str, Any] | None:
  """The sidecar of a saved prompt, without its array; None if there is none.

  Raises: UserError if it is not a JSON object.
  """
  return _read_sidecar(_beside(pathlib.Path(path)))


def read_array(path: str | os.PathLike) -> np.ndarray:
  """An array of an .npy file, mapped from disk and never unpickled.

  Raises: UserError if there is no such file or it holds no plain array.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(_missing(path))
  try:
    return np.lib.format.open_memmap(path, mode='r')
  # whatever the parser of headers stumbles over, it is the file's fault
  except Exception as error:
    raise UserError(
      f'{path} is not a readable .npy file: {error}. Expected one plain array '
      'of floats; archives (.npz), text and pickled objects are not read. '
      'Write it with np.save(path, array.astype(np.float32)).'
    ) from error


def _missing(path):
  """What to say of a file that is not there."""
  if path.is_dir():
    folder, fault = path, 'is a folder; expected the .npy file of one prompt'
  else:
    folder, fault = path.parent, 'does not exist; expected a saved prompt'
  if not folder.is_dir():
    return f'{path} {fault}. Nor is there a folder {folder}.'
  names = [child.name for child in folder.iterdir() if child.is_file()]
  close = ', '.join(params.nearest(path.name, names)) or 'none, it is empty'
  return f'{path} {fault}. Nearest in {folder}: {close}.'


def _checked(array, path):
  """The array as finite float32[P,H] in C order."""
  # numpy calls bfloat16 and its like a void type, kind 'V', on disk
  is_float = array.dtype.kind == 'f' or array.dtype.name == 'bfloat16'
  if array.ndim != 2 or 0 in array.shape or not is_float:
    raise UserError(
      f'{path} is {array.dtype} {list(array.shape)}; expected floats [P, H], '
      'one row for each position of the prompt. Several prompts go to several '
      'files; other types are cast with array.astype(np.float32).'
    )
  with np.errstate(over='ignore'):  # what is too large is counted below
    array = np.array(array, np.float32, order='C')
  bad = np.argwhere(~np.isfinite(array))
  if len(bad):
    raise UserError(
      f'{path} has {len(bad)} values that are NaN or infinite, the first at '
      f'{bad[0].tolist()}; expected finite float32. The training that made it '
      'diverged: take an earlier prompt or a lower learning rate.'
    )
  return array


def _fit(found, expected, path):
  """Raises unless found (P, H) is what was expected; None expects nothing."""
  faults = []
  if expected[0] not in (None, found[0]):
    faults.append(
      f'It is {found[0]} positions long, not {expected[0]}: set '
      f'PROMPT_LENGTH={found[0]}.'
    )
  if expected[1] not in (None, found[1]):
    faults.append(
      f'It is {found[1]} wide and the model {expected[1]}: take the model it '
      'was trained on, or a prompt of this one.'
    )
  if faults:
    want = ', '.join('any' if n is None else str(n) for n in expected)
    raise UserError(
      f'{path} is a prompt [{found[0]}, {found[1]}]; expected [{want}]. '
      + ' '.join(faults)
    )


def _beside(path):
  """The sidecar of a prompt; dots of a name without .npy are no suffix."""
  if path.suffix == '.npy':
    return path.with_suffix('.json')
  return path.with_name(path.name + '.json')


def _read_sidecar(path):
  """The sidecar as a dict; None if there is none."""
  if not path.is_file():
    return None
  try:
    sidecar = json.loads(path.read_bytes())
  except ValueError as error:
    raise UserError(
      f'{path} is not JSON: {error}. Expected the sidecar of a saved prompt, '
      'one JSON object. Delete it to load the prompt without its record.'
    ) from error
  if not isinstance(sidecar, dict):
    raise UserError(
      f'{path} holds a {type(sidecar).__name__}; expected the sidecar of a '
      'saved prompt, one JSON object. Delete it to load the prompt without '
      'its record.'
    )
  return sidecar
