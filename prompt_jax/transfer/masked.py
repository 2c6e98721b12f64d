"""Masked neurons: what a task loses without the neurons its prompt activates.

    none     the score of the task's own prompt
    own      without the most active neurons of its own prompt
    random   without as many others at random, over several draws
    other    without those of another task's prompt, over the other tasks

A mask acts at every position and layer of one stack. A drop of `own` below
`random` says that the neurons matter; below `other`, that they are the task's.
Source: Su et al. 2022, section 6. Departures: see `masks`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from prompt_jax import files
from prompt_jax.errors import UserError
from prompt_jax.inserts.mask import Mask
from prompt_jax.tasks import features
from prompt_jax.transfer import answers, grid, masks, stimulation
from prompt_jax.transfer.base import Base
from prompt_jax.transfer.shelf import Shelf


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What is masked.

  Args:
    ratios: shares of the neurons of all layers.
    draws: random masks of each size.
    others: other tasks whose masks are tried, at most; None is all, fewer
      are drawn.
    seed: of the random masks and of the others; each task draws its own.
  """

  ratios: Sequence[float] = (0.2,)  # released code
  draws: int = 3
  others: int | None = None
  seed: int = 0

  def __post_init__(self):
    if self.draws < 0 or (self.others is not None and self.others < 0):
      raise UserError(
        f'--draws is {self.draws} and --others {self.others}; expected numbers '
        'of masks, 0 or more.'
      )


class Masked:
  """A base with prompts, some of whose neurons can be switched off.

  Args:
    base, shelf: the prompts and their base.
    stack: whose MLPs are masked.
    allow_other_base: accept prompts of another base.
  """

  def __init__(
    self, base: Base, shelf: Shelf, stack: str, allow_other_base: bool = False
  ):
    at = f'{stack}/layers_\\d+/mlp/hidden'
    found = base.prompted(shelf, [(at, Mask)], allow_other_base)
    self._model, self._flat = found
    codec = features.codec(base.vocabulary)
    self._answerer = answers.Answerer(self._model, *codec)
    self._stack = stack

  def parameters(self, mask: np.ndarray) -> dict[str, Any]:
    """All parameters, with the masks [L,F] of the layers."""
    at = f'{self._stack}/layers_{{}}/mlp/hidden_insert/mask'
    own = {at.format(n): jnp.asarray(row) for n, row in enumerate(mask)}
    return {**self._flat, **own}

  def scores(
    self, each, prompt: int, kept: Sequence[np.ndarray], settings
  ) -> list[float]:
    """The scores of one prompt on one evaluation set, in percent.

    Args:
      each: the evaluation set.
      prompt: its task id.
      kept: masks [L,F]; under those of a decoder the inputs are encoded once.
      settings: how the task is answered.
    """
    flats, how = [self.parameters(mask) for mask in kept], settings.how
    once = self._stack == 'decoder'
    said = grid.answered_under(self._answerer, flats, each, prompt, how, once)
    found = [grid.metrics(each, texts) for texts in said]
    return [grid.headline(each.task, one, settings.metric) for one in found]

  def score(self, each, prompt: int, mask: np.ndarray, settings) -> float:
    """`scores` of one mask."""
    return self.scores(each, prompt, [mask], settings)[0]


def run(
  base: Base,
  shelf: Shelf,
  tasks: Sequence[Any],
  output: str | os.PathLike | None = None,
  settings: grid.Settings | None = None,
  where: stimulation.Where | None = None,
  experiment: Experiment | None = None,
  *,
  allow_other_base: bool = False,
  say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
  """Masks neurons at several ratios and scores what is left.

  Args:
    base: that the prompts belong to.
    shelf: a prompt for each of the tasks; at least two for `other`.
    tasks: names, or FileTasks.
    output: folder for masked.json and neurons.npz, or None.
    settings: how tasks are read and answered.
    where: neurons are recorded; the same stack is masked.
    experiment: what is masked.
    allow_other_base: accept prompts of another base.
    say: takes a line a task.
  Returns: {task: {'none': score, 'masked': [{'ratio', 'own', 'random': [..],
    'other': {task: score}}]}}, in percent.
  Raises: UserError for prompts that do not fit, a task without one, or a bad
    ratio.
  """
  settings, where = settings or grid.Settings(), where or stimulation.Where()
  experiment = experiment or Experiment()
  if experiment.draws < 1:
    raise UserError(
      f'{experiment.draws} random masks were asked for; expected at least 1: '
      'without that control a drop says nothing. Correct --draws.'
    )
  heard = stimulation.record(base, shelf, where, allow_other_base)
  for ratio in experiment.ratios:
    masks.count(ratio, heard.after.shape[1:])
  model = Masked(base, shelf, where.stack, allow_other_base)
  found: dict[str, Any] = {}
  for task in tasks:
    each = grid.examples_of(task, base, settings)
    own = shelf.index(each.task)
    scores = lambda kept, each=each, own=own: model.scores(
      each, own, kept, settings
    )
    found[each.task] = _of_task(heard, own, scores, experiment)
    said = found[each.task]
    drops = ', '.join(
      f'{m["ratio"]:g} own {m["own"]:.1f} random {np.mean(m["random"]):.1f}'
      for m in said['masked']
    )
    say(f'{each.task}: {said["none"]:.1f} whole; {drops}')
  if output is not None:
    folder = pathlib.Path(output).expanduser()
    files.write_json(folder / 'masked.json', found)
    stimulation.save(folder / 'neurons.npz', heard)
  return found


def _of_task(heard, own: int, scores: Callable, experiment) -> dict[str, Any]:
  """The scores of one task under all masks, which are asked for at once."""
  values = heard.after  # [S,L,F]
  shape = values.shape[1:]
  others = [i for i in range(len(values)) if i != own]
  if experiment.others is not None:
    order = np.random.default_rng([experiment.seed, own]).permutation(others)
    others = sorted(order[: experiment.others].tolist())
  kept = [np.ones(shape, np.float32)]
  for ratio in experiment.ratios:
    drawn = [(experiment.seed, own, n) for n in range(experiment.draws)]
    kept.append(masks.largest(values[own], ratio))
    kept += [masks.random(shape, ratio, n) for n in drawn]
    kept += [masks.largest(values[i], ratio) for i in others]
  found = iter(scores(kept))
  none, rows = next(found), []
  for ratio in experiment.ratios:
    row = {'ratio': ratio, 'own': next(found)}
    row['random'] = [next(found) for _ in range(experiment.draws)]
    row['other'] = {heard.names[i]: next(found) for i in others}
    rows.append(row)
  return {'none': none, 'masked': rows}


def table(found) -> list[str]:
  """What `run` returns, as lines."""
  first = max(map(len, ('task', *found)))
  lines = [f'{"task":{first}}  ratio   whole     own  random   other']
  for task, said in found.items():
    for row in said['masked']:
      other = list(row['other'].values())
      mean = f'{np.mean(other):6.1f}' if other else '     -'
      lines.append(
        f'{task:{first}}  {row["ratio"]:5g}  {said["none"]:6.1f}  '
        f'{row["own"]:6.1f}  {np.mean(row["random"]):6.1f}  {mean}'
      )
  return lines
