"""Partial models: some of a model's layers, some of its MLPs' units.

    layers i = 0, 1, ..  of the part  =  layers E[0], E[1], ..  of the whole
    wi[:, J], wo[J, :]                J = the k units of the highest scores

A part is a pure function of the whole, so what it was can be made again at
any time. Whatever is kept unchanged is the same array, not a copy of it.
Attention is never cut; the position tables belong to the stacks and stay.
Source: Huang et al. 2022 (FPT), sections 3.1 and 3.2, and released code.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.t5.config import T5Config

STACKS = ('encoder', 'decoder')
_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/(.*)')
_MLP = re.compile(r'mlp/(wi|wi_0|wi_1|wo)/kernel')


@dataclasses.dataclass(frozen=True)
class Stage:
  """A part of a model, and for how long it is trained on.

  Args:
    encoder_layers, decoder_layers: how many layers are kept, spread evenly,
      or which, ascending, from 0; None keeps all.
    encoder_mlp_dim, decoder_mlp_dim: units that each MLP keeps; None is all.
    steps: updates; None, in the last stage, is until the run ends.
  """

  encoder_layers: int | Sequence[int] | None = None
  decoder_layers: int | Sequence[int] | None = None
  encoder_mlp_dim: int | None = None
  decoder_mlp_dim: int | None = None
  steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Cut:
  """What a stage keeps of a certain model, in numbers.

  Attributes:
    layers: {stack: kept layers of the whole, ascending}.
    widths: {stack: kept units of each MLP}.
    is_narrow: {stack: whether units are left out}, which takes scores.
    is_whole: whether nothing is left out.
  """

  layers: dict[str, tuple[int, ...]]
  widths: dict[str, int]
  is_narrow: dict[str, bool]
  is_whole: bool

  def __str__(self):
    said = []
    for stack in STACKS:
      if self.layers[stack]:
        numbers = ' '.join(map(str, self.layers[stack]))
        said.append(f'{stack} layers {numbers} x {self.widths[stack]} units')
    return ', '.join(said)


def evenly(total: int, kept: int) -> tuple[int, ...]:
  """Which of `total` layers stay when `kept` do: first, last, spread evenly.

      q, r = divmod(total - kept, kept - 1)
      gaps   q + 1, then r times q + 2

  Args: 1 <= kept <= total; one layer is the first.
  Returns: ascending numbers from 0.
  Source: Huang et al. 2022 (FPT), released code, layers picked evenly.
  Departures: that code divides by zero for one layer.
  """
  if kept == 1:
    return (0,)
  q, r = divmod(total - kept, kept - 1)
  gaps = [q + 1] * (kept - 1 - r) + [q + 2] * r
  return tuple(np.cumsum([0, *gaps]).tolist())


def strongest(scores: np.ndarray, kept: int) -> np.ndarray:
  """The places of the highest scores, ascending; of equals the first.

  Args: scores float[..., F]; 1 <= kept <= F.
  Returns: int32[..., kept].
  """
  order = np.argsort(-np.asarray(scores), axis=-1, kind='stable')
  return np.sort(order[..., :kept], axis=-1).astype(np.int32)


def cut(config: T5Config, stage: Stage) -> Cut:
  """What a stage keeps of a model.

  Raises: UserError for a stage that is wider or deeper than the model, empty,
    or whose layers are not in order.
  """
  layers, widths, narrow = {}, {}, {}
  for stack in STACKS:
    total = getattr(config, f'num_{stack}_layers')
    whole = config.d_ff
    if stack == 'decoder':
      whole = config.decoder_d_ff or whole
    asked = getattr(stage, f'{stack}_layers')
    layers[stack] = _layers(stack, total, asked)
    width = getattr(stage, f'{stack}_mlp_dim')
    widths[stack] = whole if width is None else width
    _check_count(f'{stack}_mlp_dim', widths[stack], whole, 'units of its MLPs')
    narrow[stack] = widths[stack] < whole and total > 0
  shallow = any(
    len(layers[stack]) < getattr(config, f'num_{stack}_layers')
    for stack in STACKS
  )
  return Cut(layers, widths, narrow, not shallow and not any(narrow.values()))


def _layers(stack: str, total: int, asked) -> tuple[int, ...]:
  """The kept layers of one stack."""
  name = f'{stack}_layers'
  if asked is None:
    return tuple(range(total))
  if isinstance(asked, int | float):
    _check_count(name, asked, total, 'layers')
    return evenly(total, asked)
  numbers = tuple(asked)
  ascending = all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
  whole = all(type(n) is int and 0 <= n < total for n in numbers)
  if not numbers or not ascending or not whole:
    raise UserError(
      f'A stage has {name}={list(numbers)}; expected numbers from 0 to '
      f'{total - 1}, the layers of this {stack}, in ascending order and each '
      'once. Put them in order, or give their number to spread them evenly.'
    )
  return numbers


def _check_count(name: str, asked: Any, whole: int, what: str) -> None:
  if type(asked) is not int or not 1 <= asked <= max(whole, 1):
    raise UserError(
      f'A stage has {name}={asked!r}; expected a whole number from 1 to '
      f'{whole}, the {what} that the model has, or None for all of them. A '
      'stage is a part of the model: make it smaller, or take another model.'
    )


def check_scores(
  config: T5Config, cuts: Iterable[Cut], scores: Mapping | None, where: str
) -> None:
  """Raises UserError if the scores do not suffice to narrow the MLPs.

  Args:
    config: of the whole model.
    cuts: parts of it.
    scores: {stack: float[L,F]}, or None.
    where: what they were read from, for the message.
  """
  for stack in STACKS:
    if not any(each.is_narrow[stack] for each in cuts):
      continue
    layers = getattr(config, f'num_{stack}_layers')
    width = config.d_ff
    if stack == 'decoder':
      width = config.decoder_d_ff or width
    if scores is None or stack not in scores:
      raise UserError(
        f'A stage keeps some units of the MLPs of the {stack}, but {where} '
        'tells no scores to choose them by; expected the activation scores '
        f'of all its {layers} layers. Make them with `prompt-jax neurons` and '
        'give SCORES_FILE.'
      )
    found = np.shape(scores[stack])
    if found != (layers, width):
      faults = [f'{found} scores of the {stack}']
      if len(found) == 2 and found[0] < layers:
        lacking = ', '.join(map(str, range(found[0], layers)))
        faults.append(f'none of layer {lacking}')
      raise UserError(
        f'{where} has {" and ".join(faults)}; expected ({layers}, {width}), a '
        'row for every layer of the whole model and a number for every unit. '
        'They belong to another model, or are cut short: make them again with '
        '`prompt-jax neurons` and the model file of this run.'
      )
    if not np.isfinite(scores[stack]).all():
      raise UserError(
        f'{where} has scores of the {stack} that are not finite; expected '
        'numbers. Make them again with `prompt-jax neurons`.'
      )


def submodel(
  config: T5Config,
  frozen: Mapping[str, Any],
  stage: Stage,
  scores: Mapping[str, np.ndarray] | None = None,
) -> tuple[T5Config, dict[str, Any]]:
  """The part of a model that a stage keeps.

  Args:
    config: of the whole model.
    frozen: {path: leaf} of the whole model. A leaf is an array, of NumPy or on
      devices and then sharded in any way, or a `jax.ShapeDtypeStruct`, which
      gives the part's shapes and shardings without making it.
    stage: what to keep.
    scores: {stack: float[L,F]} of the whole model's units; None will do for a
      stage that narrows nothing.
  Returns: (config, {path: leaf}) of the part, layers numbered from 0. Leaves
    that are kept whole are those of `frozen`; others lie as they did, or whole
    on every device along an axis that the devices no longer divide.
  Raises: UserError as `cut` and `check_scores`.
  Source: Huang et al. 2022 (FPT), released code.
  Departures: that code finds the position table in layer 0, and goes on
    without one where layer 0 is dropped; an ungated MLP is cut too; of equal
    scores the first is kept, where that code leaves it to its library.
  """
  kept = cut(config, stage)
  check_scores(config, [kept], scores, 'The stage')
  chosen = {
    stack: strongest(scores[stack], kept.widths[stack])
    for stack in STACKS
    if kept.is_narrow[stack]
  }
  part = {}
  for path, leaf in frozen.items():
    found = _LAYER.fullmatch(path)
    if found is None:
      part[path] = leaf
      continue
    stack, number, rest = found[1], int(found[2]), found[3]
    if number not in kept.layers[stack]:
      continue
    new = kept.layers[stack].index(number)
    if stack in chosen and (matrix := _MLP.fullmatch(rest)):
      axis = 0 if matrix[1] == 'wo' else 1
      leaf = _taken(leaf, chosen[stack][number], axis)
    part[f'{stack}/layers_{new}/{rest}'] = leaf
  of_decoder = kept.widths['decoder']
  smaller = dataclasses.replace(
    config,
    num_encoder_layers=len(kept.layers['encoder']),
    num_decoder_layers=len(kept.layers['decoder']),
    d_ff=kept.widths['encoder'],
    decoder_d_ff=None if of_decoder == kept.widths['encoder'] else of_decoder,
  )
  return smaller, dict(sorted(part.items()))


def is_cut(path: str) -> bool:
  """Whether a parameter is in a layer, where parts renumber and narrow it."""
  return _LAYER.fullmatch(path) is not None


def _taken(leaf, index: np.ndarray, axis: int):
  """Rows or columns of a matrix, laid out as it is itself."""
  if isinstance(leaf, np.ndarray):
    return np.take(leaf, index, axis=axis)
  shape = list(leaf.shape)
  shape[axis] = len(index)
  place = _fitting(leaf.sharding, shape)
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=place)
  return _gather(axis, place)(leaf, index)


@functools.cache
def _gather(axis: int, place):
  """The compiled `(matrix, index) -> matrix` of one layout."""
  return jax.jit(
    lambda matrix, index: jnp.take(matrix, index, axis=axis),
    out_shardings=place,
  )


def _fitting(place, shape):
  """A sharding without the parts that do not divide a shape."""
  if not isinstance(place, jax.sharding.NamedSharding):
    return place
  parts = []
  specs = (*place.spec, *[None] * (len(shape) - len(place.spec)))
  for size, names in zip(shape, specs, strict=True):
    each = names if isinstance(names, tuple) else (names,)
    devices = math.prod(place.mesh.shape[n] for n in each if n is not None)
    parts.append(None if size % devices else names)
  spec = jax.sharding.PartitionSpec(*parts)
  return jax.sharding.NamedSharding(place.mesh, spec)
