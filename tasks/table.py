"""Rows of a local table: TSV, CSV or JSON lines, told by the file's ending.

TSV: a header line, then fields parted by tabs, no quoting. CSV: a header
line, quoting as spreadsheets write it. JSONL: one object a line.
"""

from collections.abc import Iterator
import csv
import io
import json
import pathlib
from typing import Any

from prompt_jax.errors import UserError

ENDINGS = ('.tsv', '.csv', '.jsonl')


def _text(path: pathlib.Path) -> str:
  """The whole file as text; raises UserError on bytes that are not UTF-8."""
  data = path.read_bytes()
  try:
    return data.decode('utf-8-sig')  # spreadsheets put a mark at the start
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise UserError(
      f'{path} line {line} holds the byte 0x{data[error.start]:02x}, which is '
      'not UTF-8 text; expected UTF-8. Convert it: '
      f'iconv -f CP1252 -t UTF-8 {path.name}'
    ) from error


def _tsv(text: str, path: pathlib.Path):
  # only a line feed ends a line: splitlines() would also cut at U+2028
  for number, line in enumerate(text.split('\n'), 1):
    line = line.removesuffix('\r')
    if line:
      yield number, line.split('\t')


def _csv(text: str, path: pathlib.Path):
  reader = csv.reader(io.StringIO(text, newline=''), strict=True)
  try:
    for fields in reader:
      if fields:
        yield reader.line_num, fields
  except csv.Error as error:
    raise UserError(
      f'{path} line {reader.line_num} is not CSV: {error}. Expected fields '
      'parted by commas, quoted with ".'
    ) from error


def _lines(text: str, path: pathlib.Path):
  """Yields (line number, {column: text}) of a file with a header line."""
  reader = _tsv if path.suffix == '.tsv' else _csv
  lines = reader(text, path)
  _, columns = next(lines, (0, []))
  if len(set(columns)) != len(columns):
    twice = next(name for name in columns if columns.count(name) > 1)
    raise UserError(
      f'{path} names the column {twice!r} twice in its header; expected '
      'distinct names. Rename one.'
    )
  for number, fields in lines:
    if len(fields) != len(columns):
      raise UserError(
        f'{path} line {number} has {len(fields)} fields; expected '
        f'{len(columns)} as in the header ({", ".join(columns)}). '
        'Look for a missing or an extra separator.'
      )
    yield number, dict(zip(columns, fields, strict=True))


def _objects(text: str, path: pathlib.Path):
  """Yields (line number, {column: text}) of a file of JSON lines."""
  for number, line in enumerate(text.split('\n'), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(
        f'{path} line {number} is not JSON: {error}. Expected one object a '
        'line, such as {"text": "fine", "label": "positive"}.'
      ) from error
    if not isinstance(row, dict):
      raise UserError(
        f'{path} line {number} holds a JSON {type(row).__name__}; expected an '
        'object, such as {"text": "fine", "label": "positive"}.'
      )
    yield number, row


def rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """The rows of a file, in order.

  Args:
    path: a file whose name ends in .tsv, .csv or .jsonl.
  Returns: an iterator of (line number from 1, {column: field}); fields are
    texts, in a .jsonl file whatever JSON holds.
  Raises: UserError on another ending, text that is not UTF-8, or a line that
    does not fit the format.
  """
  if path.suffix not in ENDINGS:
    raise UserError(
      f'{path} ends in {path.suffix!r}; expected one of '
      f'{", ".join(ENDINGS)}, which says how to read it. Rename the file.'
    )
  read = _objects if path.suffix == '.jsonl' else _lines
  return read(_text(path), path)
