"""Stages: a run on parts of the model that grow, its plain form one whole one.

    stage s makes the updates  start_s <= number < start_{s+1}

What trains, the optimizer's state, the step, the rng and the place in the data
go through all stages untouched; which one it is follows from the number of the
update alone, so a run goes on from any step as it would have.
Source: Huang et al. 2022 (FPT), section 3.
"""

from collections.abc import Mapping, Sequence
import functools
import itertools
import math
from typing import Any

import jax

from prompt_jax import params, scores
from prompt_jax.errors import UserError
from prompt_jax.t5 import submodel
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.submodel import STACKS, Cut, Stage
from prompt_jax.training import state as states

__all__ = [
  'Parts',
  'Schedule',
  'Stage',
  'check_model',
  'growing',
  'shapes_of',
]


def growing(
  config: T5Config,
  train_steps: int,
  depths: Sequence[float] | None = None,
  widths: Sequence[float] | None = None,
  steps: Sequence[int] | None = None,
  decoder: bool = True,
) -> tuple[Stage, ...]:
  """Stages by shares of the model.

  Args:
    config: of the whole model.
    train_steps: of the run.
    depths: share of the layers of each stack, above 0 to 1, for every stage;
      None keeps all. The number is rounded, and at least 1.
    widths: share of the units of each MLP, likewise.
    steps: of each stage; None gives the last twice as many as every other,
      the paper's 6000, 6000, 6000, 12000.
    decoder: whether the decoder is cut too; the paper leaves it whole where
      targets are short (MNLI, QQP).
  Returns: the stages; one whole stage where nothing is asked for.
  Raises: UserError if the lists are not as long as each other, a share is out
    of range, or there are more stages than steps.
  Source: Huang et al. 2022 (FPT), section 4.1 and released scripts.
  """
  count = _count(depths, widths, steps)
  if steps is None:
    steps = [None] if count == 1 else _shared_out(train_steps, count)
  stages = []
  for i, updates in enumerate(steps):
    depth = 1 if depths is None else depths[i]
    width = 1 if widths is None else widths[i]
    sizes = {}
    for stack in STACKS if decoder else STACKS[:1]:
      layers = getattr(config, f'num_{stack}_layers')
      units = (stack == 'decoder' and config.decoder_d_ff) or config.d_ff
      sizes[f'{stack}_layers'] = _part(layers, depth)
      sizes[f'{stack}_mlp_dim'] = _part(units, width)
    stages.append(Stage(**sizes, steps=updates))
  return tuple(stages)


def _count(depths, widths, steps) -> int:
  """How many stages there are; raises UserError for what is none."""
  given = {'STAGE_DEPTHS': depths, 'STAGE_WIDTHS': widths, 'STAGE_STEPS': steps}
  for name, x in given.items():
    if x is not None and not isinstance(x, (list, tuple)):
      raise UserError(
        f'{name} is {x!r}; expected a list, an entry for each stage, such as '
        f'[{x!r}], or None for what is not cut.'
      )
  said = {name: list(x) for name, x in given.items() if x is not None}
  count = len(next(iter(said.values()), [1]))
  if any(len(x) != count for x in said.values()) or not count:
    raise UserError(
      f'The stages are {said}; expected lists of one length, an entry for each '
      'stage. Give as many of each, or None for what is not cut.'
    )
  for name in ('STAGE_DEPTHS', 'STAGE_WIDTHS'):
    for share in said.get(name, ()):
      if not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(
          f'{name} has the share {share!r}; expected numbers above 0 and at '
          'most 1, of the whole model: a stage is no wider and no deeper. '
          'Write 0.25 for a quarter.'
        )
  return count


def _shared_out(train_steps: int, count: int) -> list[int]:
  """The steps of each stage, the last with twice as many as every other."""
  if train_steps < count + 1:
    raise UserError(
      f'TRAIN_STEPS is {train_steps}, too few for {count} stages; expected '
      f'at least {count + 1}. Raise it, or give fewer stages.'
    )
  ends = [i * train_steps // (count + 1) for i in range(1, count)]
  bounds = itertools.pairwise([0, *ends, train_steps])
  return [b - a for a, b in bounds]


def _part(whole: int, share: float) -> int | None:
  """A share of a count, at least 1; None for all of it."""
  if share == 1 or not whole:
    return None
  return max(1, math.floor(share * whole + 0.5))


class Schedule:
  """The stages of one run, checked.

  Args:
    stages: in order.
    train_steps: of the run.
    config: of the whole model.
    scores_file: activation scores to choose units by, see `scores`; None
      where no stage narrows its MLPs.
  Attributes:
    cuts: what each stage keeps. starts: number of its first update, from 0.
    scores: {stack: float32[L,F]} or None. sidecar: of the scores, or None.
  Raises: UserError for stages that the model or the steps do not allow, and
    for scores that do not suffice.
  """

  def __init__(
    self,
    stages: Sequence[Stage],
    train_steps: int,
    config: T5Config,
    scores_file: str | None = None,
  ):
    self.stages, self.config = tuple(stages), config
    self.train_steps, self.scores_file = train_steps, scores_file
    self.starts = _starts(self.stages, train_steps)
    self.cuts: list[Cut] = [submodel.cut(config, s) for s in self.stages]
    self.scores, self.sidecar = None, None
    if scores_file is not None:
      layers = config.num_encoder_layers
      self.scores, self.sidecar = scores.load(scores_file, layers)
    where = scores_file or 'SCORES_FILE=None'
    submodel.check_scores(config, self.cuts, self.scores, where)

  def __len__(self):
    return len(self.stages)

  @property
  def is_plain(self) -> bool:
    """Whether it is one whole stage."""
    return len(self) == 1 and self.cuts[0].is_whole

  def at(self, number: int) -> int:
    """The stage that makes the update after `number` others."""
    return sum(start <= number for start in self.starts) - 1

  def end(self, stage: int) -> int:
    """How many updates have been made when a stage is over."""
    return (*self.starts, self.train_steps)[stage + 1]

  def described(self) -> dict[str, str]:
    """{'from step <start>': what is kept}, to tell one run from another."""
    said = {}
    for start, kept in zip(self.starts, self.cuts, strict=True):
      chosen = any(kept.is_narrow.values())
      by = f', by scores {scores.digest(self.scores)}' if chosen else ''
      said[f'from step {start}'] = 'all' if kept.is_whole else f'{kept}{by}'
    return said


def _starts(stages: Sequence[Stage], train_steps: int) -> list[int]:
  """The number of the first update of each stage."""
  if not stages:
    raise UserError(
      'The run has no stages; expected at least one. Leave train.Run.stages '
      'out for the whole model all along.'
    )
  steps = [stage.steps for stage in stages]
  counts = steps if steps[-1] is not None else steps[:-1]
  if any(type(n) is not int or n < 1 for n in counts):
    raise UserError(
      f'The stages have steps {steps}; expected whole numbers of at least 1, '
      'and None in the last alone, which then goes on until the run ends. '
      'Correct STAGE_STEPS.'
    )
  total = sum(counts)
  short = len(counts) < len(steps) and len(counts) and total >= train_steps
  if short or (len(counts) == len(steps) and total != train_steps):
    raise UserError(
      f'The stages have steps {steps}, {total:,} together, and TRAIN_STEPS is '
      f'{train_steps:,}; expected them to add up. Use '
      f'--gin.TRAIN_STEPS={total}, or leave STAGE_STEPS out to share out the '
      'steps of the run.'
    )
  return [0, *itertools.accumulate(steps[:-1])]


def check_model(model, table, schedule: Schedule) -> None:
  """Raises UserError if a model cannot be trained on the parts of a schedule.

  Args:
    model: the linen model of the whole.
    table: the train table.
    schedule: its stages.
  """
  partial = [kept for kept in schedule.cuts if not kept.is_whole]
  if not partial:
    return
  if model.inserts:
    raise UserError(
      f'The method has inserts ({model.inserts[0][0]!r}), and a stage keeps '
      f'{partial[0]}; expected a method without them, for layers that are left '
      'out would take theirs along. Train prompts, or one whole stage.'
    )
  trains = params.split(states.abstract(model)[0], table)[0]
  inside = [path for path in trains if submodel.is_cut(path)]
  if inside:
    raise UserError(
      f'The method trains {inside[0]} and {len(inside) - 1} more inside the '
      f'layers, and a stage keeps {partial[0]}; expected what trains to be in '
      'every stage. Train prompts, or one whole stage.'
    )
  for stack in STACKS:
    depth = getattr(model, f'{stack}_depth', 1)
    fewest = min(len(kept.layers[stack]) for kept in partial)
    if getattr(model, f'{stack}_prompt', None) and depth > max(fewest, 1):
      raise UserError(
        f'The {stack} has a prompt for each of its first {depth} layers, and '
        f'a stage keeps {fewest}; expected no more prompts than layers. Use a '
        'prompt of the input alone, or deeper stages.'
      )


def shapes_of(tree: Any) -> Any:
  """Shapes, dtypes and shardings of the arrays in a tree."""
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  return jax.tree.map(shape, tree)


class Parts:
  """The models of the stages; of their arrays one stage at a time is kept.

  Args:
    model: the linen model of the whole.
    frozen: {path: array} of the whole, see `submodel`.
    schedule: the stages.
  """

  def __init__(self, model, frozen: Mapping[str, Any], schedule: Schedule):
    self._model, self._schedule, self._whole = model, schedule, frozen
    self._newest: tuple[int | None, dict] = (None, {})

  def _made(self, stage: int, frozen):
    each = self._schedule
    return submodel.submodel(
      each.config, frozen, each.stages[stage], each.scores
    )

  @functools.cache  # noqa: B019  as long as the run
  def model(self, stage: int):
    """The linen model of a stage."""
    if self._schedule.cuts[stage].is_whole:
      return self._model
    config = self._made(stage, {})[0]
    return self._model.clone(config=config)

  def shapes(self, stage: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of what is frozen in a stage."""
    return self._made(stage, shapes_of(self._whole))[1]

  def frozen(self, stage: int) -> dict[str, Any]:
    """What is frozen in a stage; what is not cut is shared with the whole."""
    if self._newest[0] != stage:
      self._newest = (None, {})  # lets go of the last one first
      self._newest = (stage, self._made(stage, self._whole)[1])
    return self._newest[1]
