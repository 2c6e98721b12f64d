"""A shelf: the saved prompts of several tasks, of one base and one shape.

    FOLDER/<task>.npy      one prompt a file, with or without sidecars
    FILE.npz               {task: [P,H]}, as collections are published

What is compared, projected or evaluated together has to have one length and
one width, and to belong to one base.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.prompts.attached import attached
from prompt_jax.prompts.shared import TaskPrompts

RANDOM = 'random'  # the name of the control
_BASE = ('base_digest', 'vocabulary_digest')


@dataclasses.dataclass(frozen=True, eq=False)
class Shelf:
  """Prompts of several tasks.

  Attributes:
    names: of the tasks, one a prompt.
    prompts: float32[S,P,H] in that order.
    sidecars: what is known of each; {} where nothing is.
    stack: that they stand in front of.
    place: fields of the model that say where, and in how many layers.
  """

  names: tuple[str, ...]
  prompts: np.ndarray
  sidecars: tuple[Mapping[str, Any], ...]
  stack: str = 'encoder'
  place: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.names)

  @property
  def length(self) -> int:
    return self.prompts.shape[1]

  @property
  def width(self) -> int:
    return self.prompts.shape[2]

  def prompt(self, name: str) -> np.ndarray:
    """float32[P,H] of a task. Raises: UserError if there is none."""
    return self.prompts[self.index(name)]

  def index(self, name: str) -> int:
    """The place of a task. Raises: UserError if it has no prompt here."""
    if name not in self.names:
      near = ', '.join(params.nearest(name, self.names))
      raise UserError(
        f'There is no prompt of {name!r} among the {len(self)} prompts; '
        f'expected one of them. Nearest: {near}.'
      )
    return self.names.index(name)

  def only(self, names: Sequence[str]) -> 'Shelf':
    """The prompts of some tasks, in the order given."""
    places = [self.index(name) for name in names]
    return dataclasses.replace(
      self,
      names=tuple(names),
      prompts=self.prompts[places],
      sidecars=tuple(self.sidecars[i] for i in places),
    )

  def plus(self, name: str, prompt: Any) -> 'Shelf':
    """The shelf with one prompt [P,H] more, which belongs to any base."""
    return dataclasses.replace(
      self,
      names=(*self.names, name),
      prompts=np.concatenate([self.prompts, np.asarray(prompt, 'f4')[None]]),
      sidecars=(*self.sidecars, {}),
    )

  def plus_random(self, seed: int = 0) -> 'Shelf':
    """The shelf and a prompt 'random', U[0, 1).

    Source: released code of Su et al. 2022, its control.
    """
    shape = (self.length, self.width)
    return self.plus(RANDOM, np.random.default_rng(seed).uniform(size=shape))

  def check_base(self, base: str, vocabulary: str, allow: bool) -> None:
    """Refuses prompts of another base, as `saved.check_base` does.

    Args: base, vocabulary: digests; allow: accept them all the same.
    """
    for name, sidecar in zip(self.names, self.sidecars, strict=True):
      saved.check_base(sidecar, base, vocabulary, allow, f'The prompt {name}')

  def attach(self) -> tuple[dict[str, Any], params.Flat]:
    """The shelf as a bank; row s is the prompt of task id s.

    Returns: (fields of `PromptEncoderDecoder`, {path: float32 array}).
    """
    make = functools.partial(TaskPrompts, len(self), self.length)
    fields = {f'{self.stack}_prompt': make, **self.place}
    return fields, {f'{self.stack}/prompt/prompts': self.prompts}


def of(prompts: Mapping[str, Any], sidecar: Mapping | None = None) -> Shelf:
  """A shelf of arrays {task: [P,H]}, all with one sidecar.

  Raises: UserError if there is none, or their shapes differ.
  """
  shapes = {name: tuple(np.shape(x)) for name, x in prompts.items()}
  _check_shapes(shapes)
  stacked = np.stack([np.asarray(x, np.float32) for x in prompts.values()])
  return Shelf(tuple(prompts), stacked, (dict(sidecar or {}),) * len(prompts))


def read(
  where: str | os.PathLike | Mapping[str, str | os.PathLike],
  allow_other_base: bool = False,
) -> Shelf:
  """Reads the prompts of a folder, of an archive, or {task: file}.

  Args:
    where: a folder of .npy files, whose names are their tasks; folders in it
      are not searched. Or an .npz file of arrays [P,H], or {task: file}.
    allow_other_base: take prompts together whose sidecars name other bases.
  Returns: Shelf, by name unless a mapping gives an order.
  Raises: UserError if there is no prompt, one cannot be read, or they differ
    in shape or base.
  """
  if isinstance(where, Mapping):
    files = {name: pathlib.Path(file) for name, file in where.items()}
  else:
    where = pathlib.Path(where).expanduser()
    if where.suffix == '.npz':
      return of(_archive(where))
    files = {path.stem: path for path in _listed(where)}
  found = {name: saved.load(path) for name, path in files.items()}
  named = {str(files[n]): x.shape for n, (x, _) in found.items()}
  _check_shapes(named)
  sidecars = tuple(about or {} for _, about in found.values())
  if not allow_other_base:
    _check_bases(tuple(files.values()), sidecars)
  prompts = np.stack([array for array, _ in found.values()])
  as_bank = attached({n: str(f) for n, f in files.items()}, prompts.shape[2])
  place = {k: v for k, v in as_bank.fields.items() if not k.endswith('_prompt')}
  stack = next(iter(as_bank.own)).partition('/')[0]
  return Shelf(tuple(found), prompts, sidecars, stack, place)


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
  """The .npy files of a folder, by name."""
  if not folder.is_dir():
    raise UserError(
      f'{folder} is neither a folder nor an .npz file; expected the saved '
      'prompts of some tasks, such as prompts/sst2.npy. Give their folder.'
    )
  paths = sorted(folder.glob('*.npy'))
  if not paths:
    raise UserError(
      f'There is no .npy file in {folder}; expected a saved prompt a task, '
      'named after its task. A run writes them to MODEL_DIR/prompts/<step>/'
      '<task>.npy: copy those of your tasks, each with its .json, into one '
      'folder.'
    )
  return paths


def _archive(path: pathlib.Path) -> dict[str, np.ndarray]:
  """{task: float array [P,H]} of an .npz file."""
  try:
    with np.load(path, allow_pickle=False) as stored:
      found = {name: stored[name] for name in stored.files}
  except Exception as error:  # whatever the parser stumbles over
    raise UserError(
      f'{path} cannot be read as an .npz archive: {error}. Expected one array '
      '[P, H] of floats a task. Write it with np.savez(path, sst2=array).'
    ) from error
  odd = {n: x for n, x in found.items() if x.ndim != 2 or x.dtype.kind != 'f'}
  if odd or not found:
    said = ', '.join(f'{n} {x.dtype} {list(x.shape)}' for n, x in odd.items())
    raise UserError(
      f'{path} holds {said or "nothing"}; expected one array [P, H] of floats '
      'a task, and no other arrays.'
    )
  return found


def _check_shapes(shapes: Mapping[str, tuple]) -> None:
  """Raises unless all prompts have one length and one width."""
  if not shapes:
    raise UserError(
      'There are no prompts; expected at least one. Give {task: [P, H]}.'
    )
  (first, wanted), *others = shapes.items()
  for name, found in others:
    if found != wanted:
      fault = 'wide' if found[-1] != wanted[-1] else 'long'
      raise UserError(
        f'{name} is a prompt {list(found)} and {first} {list(wanted)}; '
        f'expected prompts that are equally {fault}, [P, H] of one base. Move '
        'those of other bases and lengths to folders of their own.'
      )


def _check_bases(files, sidecars) -> None:
  """Raises unless the sidecars that name a base name the same."""
  for key in _BASE:
    said: dict[str, pathlib.Path] = {}
    for path, sidecar in zip(files, sidecars, strict=True):
      if sidecar.get(key) is not None:
        said.setdefault(sidecar[key], path)
    if len(said) > 1:
      (one, first), (two, second), *_ = said.items()
      raise UserError(
        f'{second} has {key} {two} and {first} has {one}; expected prompts of '
        'one base. Prompts of different bases share no space: move the others '
        'to another folder, or give --allow_other_base to take them all the '
        'same.'
      )
