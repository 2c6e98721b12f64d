"""A prompt in an archive of NumPy: {task: [P,H]}, as prompts are shared."""

import zipfile

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.interop.content import Prompt


def read(path: str, key: str | None = None) -> Prompt:
  """The prompt of an .npz file.

  Args:
    path: the file; pickled arrays are refused.
    key: name of the array; None takes the only one.
  Raises: UserError if it is damaged, or has no such array or several.
  """
  try:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      raise ValueError('it is one array, not an archive')
    with loaded as stored:
      names = list(stored.files)
      found = names if key is None else [n for n in names if n == key]
      array = stored[found[0]] if len(found) == 1 else None
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} is not a readable .npz file: {error}. Expected plain arrays '
      'of floats. Write it with np.savez(path, task=array).'
    ) from error
  if array is None:
    close = ', '.join(params.nearest(key or 'prompt', names, 8)) or 'none'
    raise UserError(
      f'{path} holds {len(names)} arrays'
      + (f', none of them {key!r}' if key is not None else '')
      + f'; expected one prompt. Name it with --key. Nearest: {close}.'
    )
  return Prompt(array)
