"""Cells of a transfer matrix on disk, so that what was computed is kept.

    OUTPUT/cells/<task>.json
    {'settings': ..., 'prompts': {name: {'digest', 'score', 'metrics'}}}

A cell holds for one array: a prompt whose numbers change is asked again.
"""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np

from prompt_jax import files, params
from prompt_jax.errors import UserError


def digest(prompt: np.ndarray) -> str:
  """Hex digest of a prompt [P,H]."""
  return params.digest({'prompt': np.asarray(prompt, np.float32)})


class Cells:
  """The scores of one task.

  Args:
    path: their file; None keeps them in memory alone.
    settings: what all cells of the task have in common, as JSON has it.
  Raises: UserError if the file is of other settings, or unreadable.
  """

  def __init__(self, path: str | os.PathLike | None, settings: Mapping):
    self._path = path and pathlib.Path(path)
    self._settings, self._prompts = dict(settings), {}
    if self._path is None or not self._path.is_file():
      return
    try:
      held = json.loads(self._path.read_bytes())
      before, self._prompts = held['settings'], dict(held['prompts'])
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{self._path} cannot be read as cells of a matrix: {error!r}. '
        'Expected what an earlier command wrote. Delete it to compute its '
        'scores again.'
      ) from error
    odd = [k for k in self._settings if before.get(k) != self._settings[k]]
    if odd:
      lines = '\n  '.join(
        f'{key}: there {before.get(key)}, here {self._settings[key]}'
        for key in odd
      )
      raise UserError(
        f'{self._path} holds scores of other settings:\n  {lines}\nExpected '
        'those it was begun with. Give another --output, or delete it.'
      )

  def get(self, name: str, prompt: np.ndarray) -> dict[str, Any] | None:
    """The cell of a prompt, or None if it is to be computed."""
    cell = self._prompts.get(name)
    return cell if cell and cell['digest'] == digest(prompt) else None

  def put(
    self, name: str, prompt: np.ndarray, score: float, metrics: Mapping
  ) -> None:
    """Keeps a cell, on disk at once."""
    self._prompts[name] = {
      'digest': digest(prompt),
      'score': score,
      'metrics': dict(metrics),
    }
    if self._path is not None:
      held = {'settings': self._settings, 'prompts': self._prompts}
      files.write_json(self._path, held)
