"""Saved prompts as the fields and parameters of a prompted model.

    <task>.npy           a plain prompt of the encoder       [P,H]
    <task>.decoder.npy   one of the decoder                  [P,H]
    encoder.npz          a source that reads its input, see `prompts.parts`;
                         of several tasks, its sidecar names them
    {task: file}         plain prompts of M tasks as a bank  [M,P,H]

The sidecar says which stack a file belongs to, how many layers it is cut for
and where it stands; a file without one is an ordinary prompt of the encoder.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import inspect
import os
import pathlib
from typing import Any

import flax.linen as nn
import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts import initializers, parts, saved
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.shared import TaskPrompts

STACKS = ('encoder', 'decoder')
# What a sidecar says of how a prompt stands: fields of the model, if given.
WHERE = ('where', 'attention', 'deeper')
_PATH = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Attached:
  """What saved prompts add to a plain model.

  Attributes:
    fields: of `PromptEncoderDecoder`.
    own: {path: float32 array}.
    sidecars: of the files, None where there is none.
    files: paths, in the same order.
    tasks: of a bank, in the order of the task ids; () for a single prompt.
  """

  fields: Mapping[str, Any]
  own: params.Flat
  sidecars: Sequence[Mapping[str, Any] | None]
  files: Sequence[_PATH] = ()
  tasks: Sequence[str] = ()


def attached(
  files: _PATH | Sequence[_PATH] | Mapping[str, Any] | None, width: int
) -> Attached:
  """Reads one prompt file or several, at most one a stack and task.

  Args:
    files: a path; a list of paths, one a stack; {task: such a path or list};
      or None.
    width: H of the model.
  Returns: Attached.
  Raises: UserError for a file that is not a prompt of this width, two of one
    stack, or tasks whose prompts differ in length, stack or place.
  """
  if isinstance(files, Mapping):
    return _bank({name: attached(f, width) for name, f in files.items()}, files)
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
    fields |= {name: about[name] for name in WHERE if name in about}
    own |= {f'{stack}/prompt/{name}': x for name, x in arrays.items()}
    sidecars.append(sidecar)
  return Attached(fields, own, sidecars, tuple(files))


def tasks_of(
  files: _PATH | Sequence[_PATH] | Mapping[str, Any] | None,
) -> tuple[str, ...]:
  """The tasks that saved prompts tell apart, in the order of their ids.

  Args:
    files: as of `attached`.
  Returns: names; () where one prompt, or one source, serves all inputs.
  Raises: UserError if a saved source has several tasks and its sidecar does
    not name them, or two of them name others.
  """
  if isinstance(files, Mapping):
    return tuple(files)
  listed = (files,) if isinstance(files, str | os.PathLike) else files or ()
  found = {}
  for path in map(pathlib.Path, listed):
    if path.suffix != '.npz':
      continue
    make, _, sidecar = parts.load(path)
    count, names = make(parent=None).num_tasks, sidecar.get('tasks', ())
    if count > 1 and len(set(names)) != count:
      raise UserError(
        f'{path} has prompts for {count} tasks, but its sidecar names '
        f'{", ".join(map(str, names)) or "none"}; expected "tasks", a list of '
        f'{count} names in the order of the task ids. Add it to '
        f'{path.with_suffix(".json").name}, or export the run again.'
      )
    if count > 1:
      found[path] = tuple(names)
  if len(set(found.values())) > 1:
    said = '; '.join(f'{path}: {", ".join(x)}' for path, x in found.items())
    raise UserError(
      f'The sources of PROMPT_FILE have other tasks ({said}); expected those '
      'of one run. Give the files of one run.'
    )
  return next(iter(found.values()), ())


def read_by(source: nn.Module) -> list[_PATH]:
  """The saved prompts that a source starts from or mixes.

  Args:
    source: an unbound source; the sources inside it are asked too.
  Returns: the files of its initial values and of its banks.
  """
  found = list(getattr(source, 'files', ()))
  for field in dataclasses.fields(source):
    value = getattr(source, field.name)
    if _makes_module(value):
      found += read_by(value(parent=None))
    elif field.name != 'parent':
      found += getattr(value, 'files', ())
  return found


def _makes_module(value: Any) -> bool:
  """Whether a field is a factory of modules: a class or a partial of one."""
  while isinstance(value, functools.partial):
    value = value.func
  value = inspect.unwrap(value) if callable(value) else value
  return inspect.isclass(value) and issubclass(value, nn.Module)


def _read(
  path: pathlib.Path, width: int
) -> tuple[Callable[[], nn.Module], params.Flat, dict[str, Any] | None]:
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


def _bank(each: Mapping[str, Attached], files: Mapping[str, Any]) -> Attached:
  """The prompts of all tasks as `TaskPrompts`, a row of the table a task."""
  if not each:
    raise UserError(
      'PROMPT_FILE is an empty mapping; expected {task: file}, a saved prompt '
      'for every task. Give None for the base without a prompt.'
    )
  first, *_ = each
  wanted = _described(first, each[first], files)
  for name, one in each.items():
    found = _described(name, one, files)
    if found != wanted:
      raise UserError(
        f'{files[name]} of task {name!r} is {_said(found)}, but '
        f'{files[first]} of task {first!r} is {_said(wanted)}; expected the '
        'prompts of one PROMPT_FILE to agree in all of this, because their '
        'tasks share batches. Infer the odd one in a run of its own.'
      )
  fields, own = dict(each[first].fields), {}
  for path, array in each[first].own.items():
    stack = path.split('/')[0]
    own[f'{stack}/prompt/prompts'] = np.stack(
      [one.own[path] for one in each.values()]
    )
    fields[f'{stack}_prompt'] = functools.partial(
      TaskPrompts, len(each), len(array)
    )
  sidecars = [sidecar for one in each.values() for sidecar in one.sidecars]
  paths = [path for one in each.values() for path in one.files]
  return Attached(fields, own, sidecars, paths, tuple(each))


def _described(name: str, one: Attached, files) -> dict[str, Any]:
  """What the prompts of all tasks of a bank have in common."""
  plain = {f'{stack}/prompt/prompt' for stack in STACKS}
  if not one.own or one.own.keys() - plain:
    raise UserError(
      f'PROMPT_FILE has {files[name]!r} for task {name!r}; expected one plain '
      'prompt .npy a task. A saved source (.npz) reads its input and holds '
      'its tasks itself: give it alone.'
    )
  place = {k: v for k, v in one.fields.items() if not k.endswith('_prompt')}
  shapes = {path.split('/')[0]: x.shape for path, x in one.own.items()}
  return {**shapes, **place}


def _said(about: Mapping[str, Any]) -> str:
  """A description in words: 'encoder [5, 7], where after_eos'."""
  plain = lambda x: list(x) if isinstance(x, tuple) else x
  return ', '.join(f'{key} {plain(value)}' for key, value in about.items())
