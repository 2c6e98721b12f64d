"""The transfer matrix: the score of every prompt on every task.

    score[t,s]     on task t, with the prompt of s and t's texts and labels
    relative[t,s]  = score[t,s] / score[t,t]
    corrected[t,s] = (score[t,s] - floor[t]) / (score[t,t] - floor[t])

with the floor that one answer to all examples reaches: the majority's share.
As CSV: a row a target task, a column a source prompt.
Source: Su et al. 2022, section 4.1. Departures: `corrected` is not there.
"""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json
import os
import pathlib

import numpy as np

from prompt_jax import files
from prompt_jax.errors import UserError
from prompt_jax.transfer.shelf import RANDOM


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
  """Scores of prompts on tasks.

  Attributes:
    tasks: names of the rows.
    prompts: names of the columns; 'random' is the control.
    scores: float64[tasks, prompts]; nan where there is none.
    floors: {task: score of the best constant answer}, where that is known.
  """

  tasks: tuple[str, ...]
  prompts: tuple[str, ...]
  scores: np.ndarray
  floors: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def score(self, task: str, prompt: str) -> float:
    """One cell."""
    return float(
      self.scores[self.tasks.index(task), self.prompts.index(prompt)]
    )

  def relative(self, corrected: bool = False) -> 'Matrix':
    """Each row divided by the score of the task's own prompt.

    Args: corrected: counts both from the floor: 0 is one answer to all.
    Returns: a row is nan where the task has no prompt of its own here, or it
      scores 0; if corrected, where it is not above a floor that is known.
    """
    rows = np.full(self.scores.shape, np.nan)
    for i, task in enumerate(self.tasks):
      own = self.score(task, task) if task in self.prompts else np.nan
      floor = self.floors.get(task, np.nan) if corrected else 0.0
      if own > floor if corrected else own:
        rows[i] = (self.scores[i] - floor) / (own - floor)
    return dataclasses.replace(self, scores=rows)

  def square(self, names: Sequence[str] | None = None) -> 'Matrix':
    """The tasks that have a prompt, in rows and columns alike.

    Args: names: which, in this order; None is all, in the order of the rows.
    """
    if names is None:
      names = [task for task in self.tasks if task in self.prompts]
    rows = [self.tasks.index(name) for name in names]
    columns = [self.prompts.index(name) for name in names]
    scores = self.scores[np.ix_(rows, columns)]
    return Matrix(tuple(names), tuple(names), scores, self.floors)

  def text(self) -> str:
    """The matrix as CSV, 4 decimals, an empty cell for nan."""
    said = io.StringIO()
    writer = csv.writer(said, lineterminator='\n')
    writer.writerow(['target', *self.prompts])
    for task, row in zip(self.tasks, self.scores, strict=True):
      writer.writerow([task, *('' if np.isnan(x) else f'{x:.4f}' for x in row)])
    return said.getvalue()

  def write(self, path: str | os.PathLike) -> None:
    """Writes `text` to a file."""
    files.write_text(path, self.text())

  def table(self, decimals: int = 1) -> list[str]:
    """The matrix as lines to print; '-' for nan."""
    first = max(map(len, ('target', *self.tasks)))
    wide = [max(len(name), 6) for name in self.prompts]
    head = zip(self.prompts, wide, strict=True)
    lines = [
      '  '.join([f'{"target":{first}}', *(f'{n:>{w}}' for n, w in head)])
    ]
    for task, row in zip(self.tasks, self.scores, strict=True):
      cells = ['-' if np.isnan(x) else f'{x:.{decimals}f}' for x in row]
      said = [f'{c:>{w}}' for c, w in zip(cells, wide, strict=True)]
      lines.append('  '.join([f'{task:{first}}', *said]))
    return lines


def read(path: str | os.PathLike) -> Matrix:
  """Reads a matrix from CSV: target, then a column a prompt.

  Raises: UserError if the file is not such a table of numbers.
  """
  path = pathlib.Path(path).expanduser()
  try:
    head, *rows = list(csv.reader(path.read_text().splitlines()))
    values = [[float(x or 'nan') for x in row[1:]] for row in rows]
    scores = np.asarray(values, np.float64).reshape(len(rows), len(head) - 1)
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path} cannot be read as a transfer matrix: {error}. Expected CSV '
      'with a header line "target,<prompt>,<prompt>,..." and a row of scores '
      'a task, as `prompt-jax transfer matrix` writes.'
    ) from error
  return Matrix(tuple(row[0] for row in rows), tuple(head[1:]), scores)


def by_type(
  matrix: Matrix, types: Mapping[str, Sequence[str]], corrected: bool = False
) -> dict[str, float]:
  """Mean relative score of foreign prompts, by the types of both tasks.

  Args:
    matrix: scores; its own prompts are left out of all means.
    types: {type: tasks}; tasks that are in none are left out.
    corrected: see `Matrix.relative`.
  Returns: {'same type', 'different type', 'random', and each type: mean}, nan
    where there is no such pair.
  Raises: UserError if a task is of two types.
  """
  of = _types(types)
  relative = matrix.relative(corrected)
  groups: dict[str, list[float]] = {'same type': [], 'different type': []}
  groups |= {'random': [], **{name: [] for name in types}}
  for task, row in zip(relative.tasks, relative.scores, strict=True):
    for prompt, value in zip(relative.prompts, row, strict=True):
      if np.isnan(value) or prompt == task or task not in of:
        continue
      if prompt == RANDOM:
        groups['random'].append(value)
      elif prompt in of and of[prompt] == of[task]:
        groups['same type'].append(value)
        groups[of[task]].append(value)
      elif prompt in of:
        groups['different type'].append(value)
  return {
    name: float(np.mean(values)) if values else float('nan')
    for name, values in groups.items()
  }


def read_types(path: str | os.PathLike) -> dict[str, list[str]]:
  """Reads {type: [task, ...]} from a JSON file.

  Raises: UserError if it is not such an object.
  """
  try:
    found = json.loads(pathlib.Path(path).expanduser().read_bytes())
    types = {str(k): [str(name) for name in v] for k, v in found.items()}
  except (OSError, ValueError, AttributeError, TypeError) as error:
    raise UserError(
      f'{path} cannot be read as types of tasks: {error}. Expected a JSON '
      'object {type: [task, ...]}, such as {"sentiment": ["sst2", "imdb"]}.'
    ) from error
  _types(types)
  return types


def _types(types: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """{task: its type}."""
  of: dict[str, str] = {}
  for name, tasks in types.items():
    for task in tasks:
      if task in of:
        raise UserError(
          f'{task!r} is of type {of[task]!r} and of type {name!r}; expected '
          'one type a task. Correct the types.'
        )
      of[task] = name
  return of
