"""What a method file leaves open, filled in for some tasks.

NUM_TASKS        tasks that share the run
SOURCE_PROMPTS   saved prompts of other tasks of the same base
PROMPT_FILE      the one of them under which the rows are likeliest
PROMPT_LENGTH    theirs, where they are read; else the one given
RANKED_LABELS    the targets of the tasks
"""

from collections.abc import Mapping, Sequence
import functools
import os
import pathlib
from typing import Any

from launch import few_shot, subset, tuning
from prompt_jax import bindings, ginfiles
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import local

_JUDGED = 64  # rows that choose a prompt to start from; `few_shot`


@functools.cache
def macros(method: str) -> Mapping[str, Any]:
  """{macro that a method file defines: its value there}."""
  found, _ = bindings.read(
    ginfiles.find(method), bindings.Imports(), ginfiles.find
  )
  return {each.name: each.value for each in found if each.is_macro}


def reads_sources(method: str) -> bool:
  """Whether a method file asks for saved prompts."""
  return not macros(method).keys().isdisjoint({'SOURCE_PROMPTS', 'PROMPT_FILE'})


def sources(
  folder: str, model: str, but: Sequence[str] = ()
) -> list[pathlib.Path]:
  """The prompts of a folder that fit a model and are as long as the first.

  Args:
    folder: of .npy files, and of folders of them.
    model: as for `tuning.tune`.
    but: tasks whose own prompts are left out: they are what is asked for.
  Raises: UserError if there are none.
  """
  width = pretrained.config_of(tuning.base(model)).d_model
  found = few_shot.candidates(folder, width)
  found = [file for file in found if file.stem not in but]
  if not found:
    raise UserError(
      f'{folder} has prompts of the tasks {", ".join(but)} alone; expected '
      'prompts of other tasks, to transfer from. Give another --sources.'
    )
  length = length_of(found[0])
  return [file for file in found if length_of(file) == length]


def length_of(file: str | os.PathLike) -> int:
  """Rows of a saved prompt."""
  return len(saved.load(file)[0])


def settings(
  method: str,
  model: str,
  tasks: Sequence[local.FileTask],
  length: int,
  folder: str | None = None,
  but: Sequence[str] = (),
) -> dict[str, Any]:
  """{macro: value} for what a method file leaves open.

  Args:
    method: a gin file.
    model, tasks: as for `tuning.tune`; the rows of the first task choose what
      a prompt starts from.
    length: rows of a prompt that reads no other.
    folder, but: see `sources`; the tasks themselves are always left out.
  Raises: UserError if saved prompts are asked for and none are given.
  """
  named, filled = macros(method), {}
  if 'PROMPT_LENGTH' in named:
    filled['PROMPT_LENGTH'] = length
  if 'NUM_TASKS' in named:
    filled['NUM_TASKS'] = len(tasks)
  if 'RANKED_LABELS' in named:
    texts = [text for task in tasks for text in task.target_texts()]
    filled['RANKED_LABELS'] = list(dict.fromkeys(texts))
  if not reads_sources(method):
    return filled
  if folder is None:
    raise UserError(
      f'{method} reads saved prompts; expected a folder of them, of other '
      'tasks and the same base. Give --sources, or leave the method out.'
    )
  files = sources(folder, model, [*but, *(task.name for task in tasks)])
  filled['PROMPT_LENGTH'] = length_of(files[0])
  filled['ALLOW_OTHER_BASE'] = True  # they may have grown up with the base
  if 'TARGET_PROMPTS' in named:  # carries one over: it is that of all tasks
    filled['SOURCE_PROMPTS'] = [str(_likeliest(model, tasks[0], files))]
  elif 'SOURCE_PROMPTS' in named:
    filled['SOURCE_PROMPTS'] = [str(file) for file in files]
  if 'PROMPT_FILE' in named:
    filled['PROMPT_FILE'] = str(_likeliest(model, tasks[0], files))
  return filled


def _likeliest(model: str, task: local.FileTask, files) -> pathlib.Path:
  """The prompt under which the targets of some rows are likeliest."""
  rows = local.examples(task, 'train')
  targets = [target for _, target in rows]
  chosen = subset.choose(targets, min(_JUDGED, len(rows)), seed=0)
  scores = few_shot.as_they_are(
    tuning.base(model), files, task, [rows[row] for row in chosen]
  )
  return max(files, key=scores.get)
