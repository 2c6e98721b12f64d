"""Reads inputs from a file, writes what the tuned model says as JSONL.

    python -m prompt_jax.infer --gin_file=models/mini.gin \
      --gin_file=runs/infer.gin --gin.INPUT_FILE="'reviews.txt'" \
      --gin.PROMPT_FILE="'movie_sentiment.npy'" \
      --gin.LABELS="['negative', 'positive']" \
      --gin.INFER_OUTPUT_FILE="'said.jsonl'"

Order and fields of the input rows are kept. TensorFlow is not needed.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib

import numpy as np

from prompt_jax import files, tuned
from prompt_jax.errors import UserError
from prompt_jax.predict import Decoding
from prompt_jax.t5.config import T5Config


@dataclasses.dataclass
class Inference:
  """What to infer; gin binds its fields, `infer` carries it out.

  Args:
    input_file: .jsonl (objects with 'inputs') or text, an input a line.
    output_file: .jsonl to write.
    config: shapes of the base.
    base: its checkpoint.
    prompt_file: [P,H] .npy, or None.
    labels: given, the likeliest of them with all scores; None, generation.
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
  prompt_file: str | None = None
  labels: Sequence[str] | None = None
  lengths: Mapping[str, int] | None = None
  batch_size: int = 32
  vocabulary: str | None = None
  decoding: Decoding = Decoding()
  allow_other_base: bool = False


def rows_of(file: str) -> list[dict]:
  """The rows of an input file, each with 'inputs'.

  Raises: UserError for a missing file or a row without 'inputs'.
  """
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise UserError(
      f'INPUT_FILE {file} does not exist; expected a .jsonl file or a text '
      'file with an input a line.'
    )
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
        'a text \'inputs\', such as {"inputs": "a fine film"}.'
      )
    rows.append(row)
  return rows


def infer(run: Inference) -> int:
  """Writes one JSON object an input; returns how many."""
  rows = rows_of(run.input_file)
  model = tuned.load(
    run.base,
    run.prompt_file,
    config=run.config,
    vocabulary=run.vocabulary,
    lengths=run.lengths,
    batch_size=run.batch_size,
    allow_other_base=run.allow_other_base,
  )
  texts = [row['inputs'] for row in rows]
  if run.labels:
    scores = model.scores(texts, run.labels)
    for row, values in zip(rows, scores, strict=True):
      row['prediction'] = run.labels[int(np.argmax(values))]
      row['scores'] = dict(zip(run.labels, values.tolist(), strict=True))
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
