"""Reads inputs from a file, writes what the tuned model says as JSONL.

    python -m prompt_jax.infer --gin_file=models/mini.gin \
      --gin_file=runs/infer.gin --input=rows.jsonl --output=said.jsonl \
      --gin.PROMPT_FILE="'movie_sentiment.npy'" \
      --gin.MIXTURE_OR_TASK_NAME="'movie_sentiment'"

With a task, rows have the columns of its template and answers are its labels.
Without one, rows have 'inputs', and LABELS are ranked or, without them, a
target is generated. Order and fields of the rows are kept. TensorFlow is not
needed.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from prompt_jax import files, tuned
from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.predict import Decoding
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import local, table


@dataclasses.dataclass
class Inference:
  """What to infer; gin binds its fields, `infer` carries it out.

  Args:
    input_file: without a task, .jsonl (objects with 'inputs') or text, an
      input a line. With one, .jsonl, .tsv or .csv with its columns, or text
      where it has a single one.
    output_file: .jsonl to write.
    config: shapes of the base.
    base: its checkpoint.
    prompt_file: a saved prompt, a list of one for each stack, or None.
    inserts_file: inserts.npz, or None.
    task: name of a shipped task, or a FileTask; None: none.
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
  prompt_file: str | Sequence[str] | None = None
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


def _asked(run: Inference):
  """(rows, texts for the model, labels to rank or None, their names)."""
  task = task_of(run.task)
  if task is None:
    rows = rows_of(run.input_file)
    return rows, [row['inputs'] for row in rows], run.labels, run.labels
  rows, texts = rows_of_task(run.input_file, task)
  labels = run.labels or task.target_texts()
  task.check_answers(run.labels or ())
  return rows, texts, labels, labels and [task.label_of(x) for x in labels]


def infer(run: Inference) -> int:
  """Writes one JSON object an input; returns how many."""
  rows, texts, labels, names = _asked(run)
  if labels and run.decoding != Decoding():
    raise UserError(
      f'DECODING is {run.decoding.method!r} with NUM_DECODES='
      f'{run.decoding.num_decodes}, but {len(labels)} labels are ranked and '
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
  if labels:
    scores = model.scores(texts, labels)
    for row, values in zip(rows, scores, strict=True):
      row['prediction'] = names[int(np.argmax(values))]
      row['scores'] = dict(zip(names, values.tolist(), strict=True))
  else:
    said = model.generate(texts, run.decoding)
    for row, text in zip(rows, said, strict=True):
      row['prediction'] = text
  files.write_json_lines(run.output_file, rows)
  print(f'{len(rows)} predictions in {run.output_file}', flush=True)
  return len(rows)


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('infer')
