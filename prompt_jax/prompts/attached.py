"""Saved prompts as the fields and parameters of a prompted model.

    <task>.npy           a plain prompt of the encoder       [P,H]
    <task>.decoder.npy   one of the decoder                  [P,H]
    encoder.npz          a source that reads its input, see `prompts.parts`

The sidecar says which stack a file belongs to, how many layers it is cut for
and where it stands; a file without one is an ordinary prompt of the encoder.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts import initializers, parts, saved
from prompt_jax.prompts.prompt import Prompt

STACKS = ('encoder', 'decoder')
_WHERE = ('where', 'attention', 'deeper')  # fields of the model, if given


@dataclasses.dataclass(frozen=True)
class Attached:
  """What saved prompts add to a plain model.

  Attributes:
    fields: of `PromptEncoderDecoder`.
    own: {path: float32 array}.
    sidecars: of the files, None where there is none.
  """

  fields: Mapping[str, Any]
  own: params.Flat
  sidecars: Sequence[Mapping[str, Any] | None]


def attached(files: str | os.PathLike | Sequence | None, width: int):
  """Reads one prompt file or several, at most one a stack.

  Args:
    files: a path, a list of paths, or None.
    width: H of the model.
  Returns: Attached.
  Raises: UserError for a file that is not a prompt of this width, or two of
    one stack.
  """
  if files is None:
    files = ()
  elif isinstance(files, str | os.PathLike):
    files = (files,)
  fields, own, sidecars = {}, {}, []
  for path in map(pathlib.Path, files):
    make, arrays, sidecar = _read(path, width)
    about = sidecar or {}
    stack = about.get('stack', STACKS[0])
    if stack not in STACKS or f'{stack}_prompt' in fields:
      raise UserError(
        f'{path} is a prompt of the {stack}; expected at most one of each of '
        f'{", ".join(STACKS)} in PROMPT_FILE. Leave one out.'
      )
    fields[f'{stack}_prompt'] = make
    if about.get('depth', 1) > 1:
      fields[f'{stack}_depth'] = about['depth']
    fields |= {name: about[name] for name in _WHERE if name in about}
    own |= {f'{stack}/prompt/{name}': x for name, x in arrays.items()}
    sidecars.append(sidecar)
  return Attached(fields, own, sidecars)


def _read(path: pathlib.Path, width: int):
  """(factory of the source, its arrays, sidecar) of one file."""
  if path.suffix == '.npz':
    return parts.load(path)
  array, sidecar = saved.load(path)
  if array.shape[1] != width:  # says so in the words of the loader
    saved.load(path, (array.shape[0], width))
  make = functools.partial(
    Prompt, array.shape[0], initializers.from_array(array)
  )
  return make, {'prompt': array}, sidecar
