"""Activation scores of a model's units: `<task>.npz` and `<task>.json`.

    <task>.npz    encoder float32[L,F], decoder float32[L,F]
    <task>.json   of which model, task and prompt they are, and how made

Scores in the CSV of the released code of FPT, a row a layer, those of the
encoder first, are read too; they do not say whose they are.
"""

from collections.abc import Mapping
import io
import json
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5.submodel import STACKS

Scores = dict[str, np.ndarray]  # {stack: float32[L,F]}


def digest(scores: Mapping[str, np.ndarray]) -> str:
  """Hex digest of the numbers."""
  return params.digest(scores)


def save(
  path: str | os.PathLike,
  scores: Mapping[str, np.ndarray],
  sidecar: Mapping[str, Any],
) -> str:
  """Writes the arrays and their sidecar, each whole or not at all.

  Args:
    path: '<folder>/<task>.npz'; the folder is made if need be.
    scores: {stack: float[L,F]}.
    sidecar: what JSON can hold; `check_base` of `prompts.saved` reads it.
  Returns: the path.
  """
  path = pathlib.Path(path)
  arrays = {stack: np.asarray(x, np.float32) for stack, x in scores.items()}
  text = json.dumps({**sidecar, 'digest': digest(arrays)}, indent=2)
  packed = io.BytesIO()
  np.savez(packed, **arrays)
  path.parent.mkdir(parents=True, exist_ok=True)
  new = {  # the sidecar first: no array stands there without it
    path.with_suffix('.json'): text.encode() + b'\n',
    path: packed.getvalue(),
  }
  beside = {n: n.with_name(f'.{n.name}.{os.getpid()}.new') for n in new}
  try:
    for name, data in new.items():
      beside[name].write_bytes(data)
    for name in new:
      os.replace(beside[name], name)
  finally:
    for name in beside.values():
      name.unlink(missing_ok=True)
  return str(path)


def load(
  path: str | os.PathLike, encoder_layers: int
) -> tuple[Scores, dict[str, Any] | None]:
  """Reads scores.

  Args:
    path: the .npz file, or a .csv of the released code.
    encoder_layers: how many rows of a CSV are the encoder's.
  Returns: ({stack: float32[L,F]}, sidecar, None if there is none).
  Raises: UserError if the file is missing or holds something else.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f'{path} does not exist; expected the activation scores of this model. '
      'Make them with `prompt-jax neurons`, and give SCORES_FILE.'
    )
  try:
    if path.suffix == '.csv':
      rows = np.loadtxt(path, delimiter=',', dtype=np.float32, ndmin=2)
      halves = rows[:encoder_layers], rows[encoder_layers:]
      return dict(zip(STACKS, halves, strict=True)), None
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
      raise ValueError('it is one array, not an archive')
    with stored:
      found = {s: stored[s].astype(np.float32) for s in STACKS if s in stored}
    if not found:
      raise ValueError(f'it has neither of {", ".join(STACKS)}')
    beside = path.with_suffix('.json')
    about = json.loads(beside.read_bytes()) if beside.is_file() else None
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} holds no activation scores: {error}. Expected the .npz that '
      '`prompt-jax neurons` writes, arrays `encoder` and `decoder` [L, F], or '
      'a .csv with a row for each layer. Make it again.'
    ) from error
  return found, about
