"""Saved inserts: `inserts.npz`, float32 arrays by path, and `inserts.json`.

    inserts.npz   {slash path: array} of every insert of a model
    inserts.json  which inserts stand where, and which base they belong to

The second is needed to read the first: an array does not say what alpha is.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import Any
import zipfile

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.inserts.adapter import Adapter
from prompt_jax.inserts.bias import Bias
from prompt_jax.inserts.ia3 import IA3
from prompt_jax.inserts.key_values import KeyValues
from prompt_jax.inserts.lora import LoRA
from prompt_jax.t5.sites import Inserts

# What a file may name. An insert of one's own is saved, but read only by the
# configuration that made it.
_KINDS = {kind.__name__: kind for kind in (IA3, Adapter, Bias, KeyValues, LoRA)}
_OWN = re.compile(r'.*_insert(_\d+)?/.*')
_LINEN = ('parent', 'name')  # fields of every linen module


def own(flat: Mapping[str, Any]) -> params.Flat:
  """The parameters of inserts among those of a model."""
  return {path: x for path, x in flat.items() if _OWN.fullmatch(path)}


def described(inserts: Inserts) -> list[list[Any]]:
  """[[site pattern, {'type': class name, field: value}], ...], as JSON."""
  rows = []
  for pattern, make in inserts:
    insert = make(parent=None)
    fields = [f.name for f in dataclasses.fields(insert)]
    settings = {
      n: _plain(getattr(insert, n)) for n in fields if n not in _LINEN
    }
    rows.append([pattern, {'type': type(insert).__name__, **settings}])
  return rows


def _plain(value: Any) -> Any:
  """A setting as JSON takes it; what is no number or text, as it is shown."""
  return value if isinstance(value, str | int | float | None) else repr(value)


def save(
  folder: str | os.PathLike,
  inserts: Inserts,
  flat: Mapping[str, Any],
  sidecar: Mapping[str, Any],
) -> str:
  """Writes inserts.npz and inserts.json, each whole or not at all.

  Args:
    folder: where to, such as MODEL_DIR/inserts/<step>; made if need be.
    inserts: of the model.
    flat: its parameters {path: array}; those of the inserts suffice.
    sidecar: what else to say (base_digest, step, metrics, ...).
  Returns: the path of the .npz file.
  Raises: UserError if no insert has parameters, or one is not finite.
  """
  path = pathlib.Path(folder) / 'inserts.npz'
  arrays = _checked(
    {name: np.asarray(x) for name, x in own(flat).items()}, path
  )
  about = {**sidecar, 'inserts': described(inserts)}
  about['parameters'] = params.count(arrays)
  text = json.dumps(about, indent=2, sort_keys=True) + '\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  new = {  # the sidecar first: no array stands there without it
    path.with_suffix('.json'): lambda file: file.write(text.encode()),
    path: lambda file: np.savez(file, **arrays),
  }
  beside = {n: n.with_name(f'.{n.name}.{os.getpid()}.new') for n in new}
  try:
    for name, write in new.items():
      with open(beside[name], 'wb') as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before
    for name in new:
      os.replace(beside[name], name)
  finally:
    for name in beside.values():
      name.unlink(missing_ok=True)
  return str(path)


def load(
  path: str | os.PathLike,
) -> tuple[Inserts, params.Flat, dict[str, Any]]:
  """Reads saved inserts.

  Args:
    path: the .npz file; its sidecar lies beside it.
  Returns: (inserts for a model, {path: float32 array}, sidecar).
  Raises: UserError if a file is missing or torn, holds what is not a finite
    float, or names an insert or a setting that is not known here.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f'{path} does not exist; expected the inserts.npz of a run. They are in '
      'MODEL_DIR/inserts/<step>, or written by `prompt-jax export`.'
    )
  try:
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
      raise ValueError('it is one array, not an archive')
    with stored:
      arrays = {name: stored[name] for name in stored.files}
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} is not a readable .npz file: {error}. Expected what '
      '`prompt-jax export` writes for a method with inserts. Export it again.'
    ) from error
  about = _read_sidecar(path.with_suffix('.json'))
  made = tuple((at, _made(how, path)) for at, how in about['inserts'])
  return made, _checked(arrays, path), about


def check_fit(
  shapes: Mapping[str, Any], arrays: Mapping[str, Any], path: str
) -> None:
  """Raises UserError unless the arrays are those of the model's inserts.

  Args:
    shapes: {path: shape} of all parameters of the model with its inserts.
    arrays: as `load` returns them; path: where they were read.
  """
  lines = params.difference(own(shapes), arrays)
  if lines:
    diff = '\n  '.join(lines)
    raise UserError(
      f'{path} does not fit this model; expected every path and shape to '
      f'agree:\n  {diff}\nTake the base that the inserts were trained on.'
    )


def _made(how, path):
  """The factory of an insert as a sidecar describes it."""
  settings = dict(how)
  kind = settings.pop('type', None)
  if kind not in _KINDS:
    raise UserError(
      f'{path} was saved with an insert of the type {kind!r}; expected one of '
      f'{", ".join(_KINDS)}. Use the configuration that trained it.'
    )
  known = {f.name for f in dataclasses.fields(_KINDS[kind])} - {*_LINEN}
  if settings.keys() != known:
    raise UserError(
      f'{path} describes {kind} by {sorted(settings)}; expected '
      f'{sorted(known)}. Correct its sidecar, or export the run again.'
    )
  return functools.partial(_KINDS[kind], **settings)


def _read_sidecar(path):
  """The sidecar, which has to be there."""
  try:
    about = json.loads(path.read_bytes())
    rows = [(str(at), dict(how)) for at, how in about['inserts']]
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise UserError(
      f'{path} does not tell which inserts were saved ({error!r}); expected '
      'the sidecar that was written with them. Copy it beside the .npz file.'
    ) from error
  return {**about, 'inserts': rows}


def _checked(arrays, path) -> params.Flat:
  """The arrays in float32, all finite."""
  if not arrays:
    raise UserError(
      f'There is nothing to put into {path}; expected a model whose inserts '
      'have parameters (methods/ia3.gin, lora.gin, ...).'
    )
  checked = {}
  for name, array in arrays.items():
    is_float = array.dtype.kind == 'f' or array.dtype.name == 'bfloat16'
    if not is_float or not np.isfinite(array.astype(np.float32)).all():
      raise UserError(
        f'{name} of {path} is {array.dtype} with values that are no finite '
        'float32; expected finite floats. The training that made it diverged: '
        'take an earlier step or a lower learning rate.'
      )
    checked[name] = np.array(array, np.float32, order='C')
  return dict(sorted(checked.items()))
