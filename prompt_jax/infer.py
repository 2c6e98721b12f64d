"""Reads inputs from a file, writes what the tuned model says as JSONL.

    python -m prompt_jax.infer --gin_file=models/mini.gin \
      --gin_file=runs/infer.gin --input=rows.jsonl --output=said.jsonl \
      --gin.PROMPT_FILE="'movie_sentiment.npy'" \
      --gin.MIXTURE_OR_TASK_NAME="'movie_sentiment'"

With a task, rows have the columns of its template and answers are its labels.
With several, MIXTURE_OR_TASK_NAME is a list, PROMPT_FILE is {task: file} and
rows say theirs as 'task': they share batches, each with its own prompt. So
do rows for a saved source of several tasks (.npz), which names them itself.
Without one, rows have 'inputs', and LABELS are ranked or, without them, a
target is generated. Order and fields of the rows are kept. TensorFlow is not
needed.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from prompt_jax import compile_cache, files, tuned
from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.predict import Decoding
from prompt_jax.prompts.attached import tasks_of
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import local, table


@dataclasses.dataclass
class Inference:
  """What to infer; gin binds its fields, `infer` carries it out.

  Args:
    input_file: without a task, .jsonl (objects with 'inputs') or text, an
      input a line. With one, .jsonl, .tsv or .csv with its columns, or text
      where it has a single one. Of several, rows have the field 'task'.
    output_file: .jsonl to write.
    config: shapes of the base.
    base: its checkpoint.
    prompt_file: a saved prompt, a list of one for each stack, {task: such}, or
      None.
    inserts_file: inserts.npz, or None.
    task: name of a shipped task, a FileTask, or a list of them; None: none.
    labels: target texts; given, the likeliest of them with all scores. None:
      those of the task; where it has none, generation.
    lengths: {'inputs': T, 'targets': U} in tokens.
    batch_size: rows of a batch.
    vocabulary: SentencePiece .model, 'bytes' or 'shipped'.
    decoding: how targets are decoded.
    allow_other_base: accept a prompt that was trained on another base.
  """

  input_file: str
  output_file: str
  config: T5Config
  base: str
  prompt_file: str | Sequence[str] | Mapping[str, str] | None = None
  inserts_file: str | None = None
  task: Any = None
  labels: Sequence[str] | None = None
  lengths: Mapping[str, int] | None = None
  batch_size: int = 32
  vocabulary: str | None = None
  decoding: Decoding = Decoding()
  allow_other_base: bool = False


def _existing(file: str) -> pathlib.Path:
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise UserError(
      f'INPUT_FILE {file} does not exist; expected a .jsonl file or a text '
      'file with an input a line.'
    )
  return path


def rows_of(file: str) -> list[dict]:
  """The rows of an input file, each with 'inputs'.

  Raises: UserError for a missing file or a row without 'inputs'.
  """
  path = _existing(file)
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise UserError(
      f'INPUT_FILE {file} is not UTF-8 text (byte {error.start}); expected '
      f'UTF-8. Convert it: iconv -f CP1252 -t UTF-8 {path.name}'
    ) from error
  # only a line feed ends a line: splitlines() would also cut at U+2028
  lines = [line.removesuffix('\r') for line in text.split('\n')]
  if not lines[-1]:
    lines.pop()
  if path.suffix != '.jsonl':
    return [{'inputs': line} for line in lines]
  rows = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if not isinstance(row, dict) or not isinstance(row.get('inputs'), str):
      raise UserError(
        f'Line {number} of {file} is {line[:60]!r}; expected an object with '
        'a text \'inputs\', such as {"inputs": "a fine film"}. For rows with '
        'the columns of a task, give MIXTURE_OR_TASK_NAME.'
      )
    rows.append(row)
  return rows


def rows_of_task(file: str, task: local.FileTask) -> tuple[list, list[str]]:
  """The rows of an input file, and what the template makes of each.

  Raises: UserError for a missing file or a row without a column of the
    template.
  """
  path = _existing(file)
  columns = local.columns(task)
  if path.suffix in table.ENDINGS:
    numbered = list(table.rows(path))
  elif len(columns) == 1:
    lines = [row['inputs'] for row in rows_of(file)]
    numbered = list(enumerate(({columns[0]: line} for line in lines), 1))
  else:
    raise UserError(
      f'INPUT_FILE {file} has an input a line, but task {task.name!r} reads '
      f'the columns {", ".join(columns)}; expected a file with them, whose '
      f'name ends in one of {", ".join(table.ENDINGS)}.'
    )
  return [row for _, row in numbered], local.inputs(task, numbered, path)


def task_of(named: Any) -> local.FileTask | None:
  """The definition of a shipped task, or the FileTask itself.

  Raises: UserError for any other: SeqIO, and so TensorFlow, would be needed.
  """
  if named is None or isinstance(named, local.FileTask):
    return named
  known = local.shipped_names()
  if named in known:
    return local.shipped(named)
  close = ', '.join(nearest(str(named), known))
  raise UserError(
    f'MIXTURE_OR_TASK_NAME is {named!r}; expected the name of a shipped task '
    f'or @local.FileTask(): only these can be read without TensorFlow, as '
    f'inference does. Nearest: {close}. For any other task leave it out, give '
    "LABELS (or generate) and rows with 'inputs'."
  )


def rows_of_tasks(file: str, tasks: Mapping[str, local.FileTask]):
  """The rows of several tasks.

  Args:
    file: .jsonl, .tsv or .csv; a row says its task as 'task' and has the
      columns of that task.
    tasks: {name: task}.
  Returns: (rows, what the template of its task makes of each, their tasks).
  Raises: UserError for a missing file, a row without a task or a column.
  """
  path = _existing(file)
  if path.suffix not in table.ENDINGS:
    raise UserError(
      f'INPUT_FILE {file} has an input a line, but MIXTURE_OR_TASK_NAME lists '
      f'{len(tasks)} tasks; expected a file whose rows say theirs as '
      f"'task', whose name ends in one of {', '.join(table.ENDINGS)}."
    )
  rows, texts, named = [], [], []
  for number, row in table.rows(path):
    name = _known(row.get('task'), tasks, f'{path} line {number}')
    rows.append(row)
    texts += local.inputs(tasks[name], [(number, row)], path)
    named.append(name)
  return rows, texts, named


def _known(name: Any, names: Collection[str], where: str) -> str:
  """The task of a row; raises UserError unless it is one of the names."""
  if not isinstance(name, str) or name not in names:
    close = ', '.join(nearest(str(name), list(names)))
    raise UserError(
      f"{where} has 'task' {name!r}; expected a task of PROMPT_FILE and, if "
      f'given, of MIXTURE_OR_TASK_NAME. Nearest: {close}.'
    )
  return name


@dataclasses.dataclass(frozen=True)
class _Asked:
  """What the rows of a file ask.

  Attributes:
    rows: as they are in the file. texts: of the model.
    tasks: the task of each, None where there is none.
    labels: {task: texts to rank, or None to generate}. names: what they are
      called in the answers.
    apart: whether the model tells tasks apart.
  """

  rows: list[dict]
  texts: list[str]
  tasks: list[str | None]
  labels: Mapping[str | None, Sequence[str] | None]
  names: Mapping[str | None, Sequence[str] | None]
  apart: bool = False

  def ranked(self) -> list[int]:
    """The rows with labels; the others are generated."""
    each = enumerate(self.tasks)
    return [row for row, task in each if self.labels[task]]


def _asked(run: Inference) -> _Asked:
  """What is asked, checked to agree with the prompts."""
  listed = run.task if isinstance(run.task, list | tuple) else [run.task]
  found = [task_of(each) for each in listed]
  tasks = {task.name: task for task in found if task is not None}
  bank = tasks_of(run.prompt_file)
  _check_bank(run, tasks, bank)
  if not tasks:
    rows = rows_of(run.input_file)
    of = [None] * len(rows)
    if bank:
      of = [
        _known(row.get('task'), bank, f'Row {number} of {run.input_file}')
        for number, row in enumerate(rows, 1)
      ]
    labels = dict.fromkeys(bank or [None], run.labels)
    texts = [row['inputs'] for row in rows]
    return _Asked(rows, texts, of, labels, labels, bool(bank))
  if len(tasks) > 1:
    rows, texts, of = rows_of_tasks(run.input_file, tasks)
  else:
    rows, texts = rows_of_task(run.input_file, *tasks.values())
    of = [*tasks] * len(rows)
  labels, names = {}, {}
  for name, task in tasks.items():
    task.check_answers(run.labels or ())
    labels[name] = run.labels or task.target_texts()
    names[name] = labels[name] and [task.label_of(x) for x in labels[name]]
  return _Asked(rows, texts, of, labels, names, bool(bank))


def _check_bank(run: Inference, tasks, bank: Sequence[str]) -> None:
  """Raises UserError unless several tasks have a prompt each."""
  if isinstance(run.prompt_file, Mapping) and not bank:
    return  # what reads the files says so
  if len(tasks) > 1 and not bank:
    raise UserError(
      f'MIXTURE_OR_TASK_NAME lists {", ".join(tasks)}, but PROMPT_FILE is '
      f'{run.prompt_file!r}; expected a prompt for each. Give PROMPT_FILE="'
      f"{{{next(iter(tasks))!r}: 'a.npy', ...}}\"."
    )
  missing = [name for name in tasks if bank and name not in bank]
  if missing:
    raise UserError(
      f'PROMPT_FILE has prompts for {", ".join(bank)}; expected '
      f'one for {missing[0]!r} too, of MIXTURE_OR_TASK_NAME. Add its file, or '
      'leave the task out.'
    )
  if len(tasks) > 1 and run.labels is not None:
    raise UserError(
      f'LABELS is {run.labels!r}, but MIXTURE_OR_TASK_NAME lists {len(tasks)} '
      'tasks; expected None: each has its own labels. Infer a task in a run '
      'of its own to give it others.'
    )


def infer(run: Inference) -> int:
  """Writes one JSON object an input; returns how many."""
  compile_cache.keep()
  asked = _asked(run)
  if run.decoding != Decoding() and all(asked.labels.values()):
    first = next(iter(asked.labels.values()))
    raise UserError(
      f'DECODING is {run.decoding.method!r} with NUM_DECODES='
      f'{run.decoding.num_decodes}, but {len(first)} labels are ranked and '
      'nothing is decoded. Leave DECODING and NUM_DECODES out, or the labels '
      'and the task.'
    )
  model = tuned.load(
    run.base,
    run.prompt_file,
    run.inserts_file,
    config=run.config,
    vocabulary=run.vocabulary,
    lengths=run.lengths,
    batch_size=run.batch_size,
    allow_other_base=run.allow_other_base,
  )
  _answer(model, asked, run.decoding)
  files.write_json_lines(run.output_file, asked.rows)
  print(f'{len(asked.rows)} predictions in {run.output_file}', flush=True)
  return len(asked.rows)


def _answer(model, asked: _Asked, decoding: Decoding) -> None:
  """Adds 'prediction', and 'scores' where labels are ranked, to the rows."""

  def given(rows):
    texts = [asked.texts[row] for row in rows]
    tasks = [asked.tasks[row] for row in rows]
    return texts, {'tasks': tasks} if asked.apart else {}

  ranked = asked.ranked()
  if ranked:
    texts, settings = given(ranked)
    known = {task: x for task, x in asked.labels.items() if x}
    # labels that all tasks share need not be told apart
    one = len({tuple(x) for x in known.values()}) == 1
    labels = next(iter(known.values())) if one else known
    scores = model.scores(texts, labels, **settings)
    for row, values in zip(ranked, scores, strict=True):
      names = asked.names[asked.tasks[row]]
      asked.rows[row]['prediction'] = names[int(np.argmax(values))]
      each = zip(names, np.asarray(values).tolist(), strict=True)
      asked.rows[row]['scores'] = dict(each)
  rest = sorted({*range(len(asked.rows))} - {*ranked})
  if rest:
    texts, settings = given(rest)
    said = model.generate(texts, decoding, **settings)
    for row, text in zip(rest, said, strict=True):
      asked.rows[row]['prediction'] = text


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('infer')
