"""Cross-task transfer: every prompt of a shelf on every task, no training.

Writes OUTPUT/cells/<task>.json as it goes, then OUTPUT/matrix.csv and
OUTPUT/relative.csv and, counted from the score of one answer to all examples,
OUTPUT/corrected.csv. The same command goes on where it was stopped; a prompt
or a task more costs its own cells.
Source: Su et al. 2022, section 4.1. Departures: padding is masked, the last
batch counts, and metrics are those of the tasks, in percent.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from prompt_jax.tasks import features
from prompt_jax.transfer import answers, grid
from prompt_jax.transfer.base import Base
from prompt_jax.transfer.cells import Cells
from prompt_jax.transfer.matrix import Matrix
from prompt_jax.transfer.shelf import Shelf

_SAME = ('split', 'how', 'lengths', 'max_examples', 'metric')


def evaluate(
  base: Base,
  shelf: Shelf,
  tasks: Sequence[Any],
  output: str | os.PathLike | None = None,
  settings: grid.Settings | None = None,
  *,
  allow_other_base: bool = False,
  say: Callable[[str], None] = lambda line: None,
) -> Matrix:
  """The transfer matrix of a shelf of prompts.

  Args:
    base: that all prompts belong to.
    shelf: the prompts; `Shelf.plus_random` has the control among them.
    tasks: names of tasks, or FileTasks.
    output: folder of what is written; None keeps nothing.
    settings: how tasks are read and answered.
    allow_other_base: accept prompts of another base.
    say: takes a line of progress a task.
  Returns: Matrix, scores in percent.
  Raises: UserError for prompts that do not fit the base, a task that is not
    there, or an output of other settings.
  """
  settings = settings or grid.Settings()
  folder = None if output is None else pathlib.Path(output).expanduser()
  model, flat = base.prompted(shelf, allow_other_base=allow_other_base)
  answerer = answers.Answerer(model, *features.codec(base.vocabulary))
  rows, names, floors = [], [], {}
  for task in tasks:
    each = grid.examples_of(task, base, settings)
    about = dataclasses.asdict(settings)
    cells = Cells(
      folder and folder / 'cells' / f'{each.task}.json',
      {
        **{key: about[key] for key in _SAME},
        'base_digest': base.digest,
        'vocabulary_digest': base.vocabulary_digest,
        'examples': len(each),
        'inputs': each.tokens.inputs.digest(),
        'labels': each.labels,
      },
    )
    rows.append(_row(answerer, flat, each, shelf, cells, settings))
    names.append(each.task)
    floors[each.task] = floor(each, settings.metric)
    best = int(np.nanargmax(rows[-1])) if np.isfinite(rows[-1]).any() else 0
    say(
      f'{each.task}: {len(each)} examples, best {shelf.names[best]} '
      f'{rows[-1][best]:.2f}'
    )
  scores = np.asarray(rows, np.float64)
  found = Matrix(tuple(names), shelf.names, scores, floors)
  if folder is not None:
    found.write(folder / 'matrix.csv')
    found.relative().write(folder / 'relative.csv')
    found.relative(corrected=True).write(folder / 'corrected.csv')
  return found


def floor(each, metric: str | None) -> float:
  """The best score of one answer to all examples; nan without labels."""
  said = [[label] * len(each) for label in each.labels or ()]
  found = [
    grid.headline(each.task, grid.metrics(each, s), metric) for s in said
  ]
  return max(found, default=np.nan)


def _row(answerer, flat, each, shelf: Shelf, cells: Cells, settings):
  """The scores of all prompts on one task; those on disk are not asked."""
  pairs = list(zip(shelf.names, shelf.prompts, strict=True))
  known = [cells.get(name, prompt) for name, prompt in pairs]
  missing = [i for i, cell in enumerate(known) if cell is None]
  row = [np.nan if cell is None else cell['score'] for cell in known]
  asked = grid.answered(answerer, flat, each, missing, settings.how)
  for i, texts in asked:
    found = grid.metrics(each, texts)
    row[i] = grid.headline(each.task, found, settings.metric)
    cells.put(*pairs[i], row[i], found)
  return row
