"""What a file of any format holds: one prompt, or inserts of a model."""

import dataclasses
import re
from typing import Any

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved
from prompt_jax.t5.leaf import Leaf
from prompt_jax.t5.sites import Inserts as Table

_EMBEDDING = 'token_embedder/embedding'
_PARAMETER = re.compile(r'(.*)_insert(_\d+)?/([^/]+)')


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One prompt [P,H].

  Attributes:
    array: float[P,H].
    about: the sidecar, as far as the file has one.
    notes: what the user should know, a sentence each.
  """

  array: np.ndarray
  about: dict[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def check_fit(self, shapes: dict[str, Leaf], where: str, model: str) -> None:
    """Raises UserError unless the prompt is as wide as the base."""
    if _EMBEDDING not in shapes:
      raise UserError(
        f'{model} has no {_EMBEDDING}; expected the checkpoint of a T5, which '
        'tells how wide a prompt is. Give the base that this one belongs to.'
      )
    width = shapes[_EMBEDDING].shape[1]
    if self.array.ndim == 2 and self.array.shape[1] != width:
      raise UserError(
        f'{where} is a prompt {list(self.array.shape)}; expected [P, {width}], '
        f'the width of {model}. Give the model it was trained on.'
      )


@dataclasses.dataclass(frozen=True)
class Inserts:
  """Inserts of one model.

  Attributes:
    table: ((site pattern, factory), ...), for the model.
    arrays: {slash path: float array}.
    about, notes: see `Prompt`.
  """

  table: Table
  arrays: params.Flat
  about: dict[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def by_site(self, where: str) -> dict[str, tuple[dict, dict]]:
    """{site: (settings, {parameter: array})}, the first row that meets it.

    Raises: UserError if two inserts stand at one site.
    """
    rows = saved.described(self.table)
    found: dict[str, tuple[dict, dict]] = {}
    for path, array in self.arrays.items():
      site, number, name = _PARAMETER.fullmatch(path).groups()
      if number:
        raise UserError(
          f'{where} has two inserts at {site}; expected one a site, which is '
          'all that an adapter of PEFT can hold. Merge them into the base: '
          '`prompt-jax export --merge`.'
        )
      met = (how for at, how in rows if re.fullmatch(at, site))
      found.setdefault(site, (next(met), {}))[1][name] = array
    return found

  def check_fit(self, shapes: dict[str, Leaf], where: str, model: str) -> None:
    """Raises UserError unless every array has the shape of its site."""
    wanted, got = {}, {}
    for path, array in self.arrays.items():
      site, _, name = _PARAMETER.fullmatch(path).groups()
      place, _, product = site.rpartition('/')
      # hidden is what wo reads, rows ahead are like those that key gives;
      # every other site is what a kernel gives
      kernel = {'hidden': 'wo', 'ahead': 'key'}.get(product, product)
      own = f'{place}/{kernel}'
      got[path] = Leaf(array.shape, array.dtype)
      if f'{own}/kernel' not in shapes:
        continue  # shown as left over
      width = shapes[f'{own}/kernel'].shape
      if name == 'lora_a':
        shape = (width[0], array.shape[1])
      elif name == 'lora_b' or product == 'ahead':
        shape = (array.shape[0], width[1])
      else:
        shape = (width[0] if product == 'hidden' else width[1],)
      wanted[path] = Leaf(shape, array.dtype)
    lines = params.difference(wanted, got)
    if lines:
      diff = '\n  '.join(lines)
      raise UserError(
        f'{where} does not fit {model}; expected every insert at a site of '
        f'it, with its shape:\n  {diff}\nGive the model it was trained on.'
      )
