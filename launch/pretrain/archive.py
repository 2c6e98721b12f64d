"""Arrays in one .npz file that is whole or absent."""

from collections.abc import Mapping
import os
import pathlib

import numpy as np

from prompt_jax.errors import UserError


def save(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes {name: array}; an interruption leaves no half of a file."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    with beside.open('wb') as file:
      np.savez(file, **arrays)
    beside.replace(path)
  finally:
    beside.unlink(missing_ok=True)


def load(path: str | os.PathLike, maker: str) -> dict[str, np.ndarray]:
  """All arrays of a file, never unpickled.

  Args:
    path: the .npz file.
    maker: the module of `launch.pretrain` that writes it.
  Returns: {name: array}.
  Raises: UserError if there is no such file.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f'{path} is not there; expected the arrays that launch.pretrain.{maker} '
      f'writes. Run `python -m launch.pretrain.{maker} --help` and then the '
      'command, or `make backbones DATA=...` for all of it.'
    )
  with np.load(path, allow_pickle=False) as found:
    return dict(found)
