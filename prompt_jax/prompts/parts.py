"""A saved source: `<stack>.npz`, its arrays by path, and `<stack>.json`.

    encoder.npz   {path under the source: float32 array}, frozen ones too
    encoder.json  the source with its settings, and which base it belongs to

For sources that make another prompt of every input, which no [P,H] can hold.
The file needs no other: it holds the bank that its prompts are mixed from.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import io
import json
import os
import pathlib
from typing import Any
import zipfile

import flax.linen as nn
import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.lstm import LSTM
from prompt_jax.prompts.mlp import MLP
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.residual import Residual
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.prompts.shared_and_task import SharedAndTask
from prompt_jax.prompts.transformer import Transformer
from prompt_jax.prompts.wayward import Wayward

# What a file may name. A source of one's own is saved, but read only by the
# configuration that made it.
_KINDS = {
  kind.__name__: kind
  for kind in (
    Attempt,
    Bank,
    LSTM,
    MLP,
    Prompt,
    Residual,
    SharedAndTask,
    TaskPrompts,
    Transformer,
    Wayward,
  )
}
_LINEN = ('parent', 'name')  # fields of every linen module
_INITIAL = ('init', 'task_init')  # what comes before the numbers in the file


def described(source: nn.Module) -> dict[str, Any]:
  """{'type': class name, field: value or such a dict}, as JSON takes it."""
  about = {'type': type(source).__name__}
  for field in dataclasses.fields(source):
    value = getattr(source, field.name)
    if field.name in (*_LINEN, *_INITIAL):
      continue
    if callable(value):
      about[field.name] = described(value(parent=None))
    elif isinstance(value, list | tuple):
      about[field.name] = [str(each) for each in value]
    else:
      about[field.name] = value
  return about


def save(
  path: str | os.PathLike,
  source: nn.Module,
  flat: Mapping[str, Any],
  sidecar: Mapping[str, Any],
) -> None:
  """Writes a source and its sidecar, each whole or not at all.

  Args:
    path: '<folder>/<stack>.npz'; the folder is made if need be.
    source: an unbound source.
    flat: its parameters {path under the source: array}.
    sidecar: what else to say (base_digest, step, metrics, ...).
  Raises: UserError if a number is not finite (nothing is written).
  """
  path = pathlib.Path(path)
  arrays = _checked({k: np.asarray(x) for k, x in flat.items()}, path)
  about = {**sidecar, 'source': described(source)}
  about['digests'] = {k: params.digest({k: x}) for k, x in arrays.items()}
  text = json.dumps(about, indent=2, sort_keys=True) + '\n'
  packed = io.BytesIO()
  np.savez(packed, **arrays)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = {  # the sidecar first: no array stands there without it
    path.with_suffix('.json'): text.encode(),
    path: packed.getvalue(),
  }
  beside = {n: n.with_name(f'.{n.name}.{os.getpid()}.new') for n in new}
  try:
    for name, data in new.items():
      with open(beside[name], 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before
    for name in new:
      os.replace(beside[name], name)
  finally:
    for name in beside.values():
      name.unlink(missing_ok=True)


def load(
  path: str | os.PathLike,
) -> tuple[Callable[[], nn.Module], params.Flat, dict[str, Any]]:
  """Reads a saved source.

  Args:
    path: the .npz file; its sidecar lies beside it.
  Returns: (factory of the source, {path under it: float32 array}, sidecar).
  Raises: UserError if a file is missing or torn, holds what is not a finite
    float, or names a source or a setting that is not known here.
  """
  path = pathlib.Path(path)
  if not path.is_file() or not path.with_suffix('.json').is_file():
    raise UserError(
      f'{path} or its sidecar .json does not exist; expected the saved source '
      'of a run. They are in MODEL_DIR/prompts/<step>.'
    )
  try:
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
      raise ValueError('it is one array, not an archive')
    with stored:
      arrays = {name: stored[name] for name in stored.files}
    about = json.loads(path.with_suffix('.json').read_bytes())
    wanted = about['source']
  except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
    raise UserError(_unreadable(path, error)) from error
  except zipfile.BadZipFile as error:
    raise UserError(_unreadable(path, error)) from error
  return _made(wanted, path), _checked(arrays, path), about


def _made(about, path) -> Callable[[], nn.Module]:
  """The factory of what `described` said."""
  settings = dict(about)
  kind = _KINDS.get(settings.pop('type', None))
  fields = {f.name for f in dataclasses.fields(kind)} if kind else set()
  unknown = sorted(settings.keys() - fields)
  if kind is None or unknown:
    raise UserError(
      f'{path} holds a source {about.get("type")!r} with {unknown or "it"} '
      f'unknown here; expected one of {", ".join(_KINDS)} with its own '
      'settings. Take the version that wrote it (its sidecar says which), or '
      'the gin configuration of the run.'
    )
  settings = {
    name: _made(value, path) if isinstance(value, dict) else value
    for name, value in settings.items()
  }
  return functools.partial(kind, **settings)


def _unreadable(path, error):
  return (
    f'{path} is not a readable source: {error}. Expected an .npz of arrays '
    "and a .json with its 'source', as a run with this method writes them to "
    'MODEL_DIR/prompts/<step>. Copy both again.'
  )


def _checked(arrays, path) -> params.Flat:
  """The arrays as finite float32."""
  checked = {}
  for name, array in arrays.items():
    if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
      raise UserError(
        f'{path} has {array.dtype} at {name}; expected floats. Export it '
        'again, or cast the array to float32.'
      )
    checked[name] = np.asarray(array, np.float32)
    if not np.isfinite(checked[name]).all():
      raise UserError(
        f'{path} has values at {name} that are NaN or infinite; expected '
        'finite float32. The training that made it diverged: take an earlier '
        'step or a lower learning rate.'
      )
  return checked
