"""The grid of a task: every prompt with every example, in mixed batches.

    row r of the grid: prompt r // N, example r % N        S N rows in all

A batch may hold rows of two prompts, so none is half empty but the last; a
prompt is done with its last row. Which prompt a row has is its task id.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from prompt_jax import batches, params
from prompt_jax.errors import UserError
from prompt_jax.transfer import answers
from prompt_jax.transfer.base import Base


@dataclasses.dataclass(frozen=True)
class Settings:
  """How tasks are read and answered.

  Args:
    split: of every task.
    how: see `answers`; a task without labels is generated whatever it says.
    lengths: {'inputs': T, 'targets': U} in tokens.
    batch_size: rows of a batch.
    max_examples: the first so many of every task; None is all.
    metric: of every task; None is its accuracy or else its first.
    module: registers tasks, imported first.
  """

  split: str = 'validation'
  how: str = 'first_token'
  lengths: Any = dataclasses.field(
    default_factory=lambda: {'inputs': 64, 'targets': 8}
  )
  batch_size: int = 64
  max_examples: int | None = None
  metric: str | None = None
  module: str | None = None

  def __post_init__(self):
    if self.how not in answers.HOW:
      near = params.nearest(str(self.how), answers.HOW, 1)[0]
      raise UserError(
        f'how is {self.how!r}; expected one of {", ".join(answers.HOW)}. '
        f'Nearest: {near!r}. Correct --how.'
      )
    for name in ('batch_size', 'max_examples'):
      number = getattr(self, name)
      if number is not None and number < 1:
        raise UserError(
          f'{name} is {number}; expected at least 1. Correct --{name}.'
        )


def examples_of(task: Any, base: Base, settings: Settings):
  """The evaluation set of a task, see `data.evaluation`."""
  from prompt_jax import data  # reads tasks: imports TensorFlow

  return data.evaluation(
    task,
    settings.split,
    settings.lengths,
    settings.batch_size,
    module=settings.module,
    vocabulary=base.vocabulary,
    max_examples=settings.max_examples,
  )


def _batches(each, prompts: Sequence[int], size: int) -> Iterator:
  """Yields (rows that are real, batch) over the grid of some prompts."""
  count = len(each)
  for start in range(0, count * len(prompts), size):
    rows = np.arange(start, min(start + size, count * len(prompts)))
    place = rows % count
    batch = batches.assemble(
      each.tokens.inputs.pad(place, each.lengths['inputs']),
      each.tokens.targets.pad(place, each.lengths['targets']),
      np.asarray(prompts)[rows // count],
    )
    yield len(rows), batches.fill(batch, size)


def answered(
  answerer: answers.Answerer, flat, each, prompts: Sequence[int], how: str
) -> Iterator[tuple[int, list[str]]]:
  """Yields (prompt, its answer to every example) as prompts are done.

  Args:
    answerer: of the model.
    flat: its parameters.
    each: the evaluation set.
    prompts: task ids to ask with.
    how: see `answers`.
  """
  said, done, count = [], 0, len(each)
  how = how if each.labels else 'generate'
  for real, batch in _batches(each, prompts, each.batch_size):
    length = each.lengths['targets']
    found = answerer(flat, batch, how, each.labels, length)
    said += found[:real]
    while len(said) >= count:
      yield prompts[done], said[:count]
      said, done = said[count:], done + 1


def answered_under(
  answerer: answers.Answerer,
  flats: Sequence[Any],
  each,
  prompt: int,
  how: str,
  decoder_only: bool,
) -> list[list[str]]:
  """The answers of one prompt to every example under several parameters.

  Args:
    answerer, each, how: as for `answered`.
    flats: the parameters.
    prompt: task id to ask with.
    decoder_only: whether they differ in the decoder alone, so that an input
      is encoded once for all of them.
  Returns: a list of answers for each of the parameters.
  """
  how = how if each.labels else 'generate'
  said: list[list[str]] = [[] for _ in flats]
  for real, batch in _batches(each, [prompt], each.batch_size):
    batch = answerer.encoded(flats[0], batch) if decoder_only else batch
    for texts, flat in zip(said, flats, strict=True):
      length = each.lengths['targets']
      texts += answerer(flat, batch, how, each.labels, length)[:real]
  return said


def metrics(each, texts: Sequence[str]) -> dict[str, float]:
  """The metrics of a task over its answers, as an evaluation has them."""
  task, found = each.provider, {}
  say = lambda text, **kw: task.postprocess_fn(text, example=None, **kw)
  targets = [say(t, is_target=True) for t in each.targets_pretokenized]
  given = [say(text) for text in texts]
  for fn in task.predict_metric_fns:
    found |= {name: float(x) for name, x in fn(targets, given).items()}
  return found


def headline(task: str, found, asked: str | None) -> float:
  """The one metric of a task that counts.

  Raises: UserError if the task does not have the one asked for.
  """
  name = asked or ('accuracy' if 'accuracy' in found else next(iter(found)))
  if name not in found:
    raise UserError(
      f'Task {task!r} has no metric {name!r}; expected one of '
      f'{", ".join(sorted(found))}. Correct --metric, or leave it out.'
    )
  return found[name]
