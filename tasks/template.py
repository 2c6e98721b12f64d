"""Templates: the columns of a row become the text of an input.

'{text_a} {text_b}'    {'text_a': 'big', 'text_b': 'red'}  ->  'big red'
"""

import string

from prompt_jax.errors import UserError
from prompt_jax.params import nearest


def pieces(task) -> list[tuple[str, str | None, str]]:
  """The template as [(literal text, column or None, format)]."""
  try:
    parsed = list(string.Formatter().parse(task.template))
    found = [
      (literal, column, spec or '') for literal, column, spec, _ in parsed
    ]
    for _, _, spec in found:
      format('', spec)  # columns are texts; a format for numbers fails here
  except ValueError as error:
    raise UserError(
      f'The template {task.template!r} of task {task.name!r} cannot be read: '
      f'{error}. Expected text with column names in braces, such as '
      "'{text_a} {text_b}'; write a brace itself twice."
    ) from error
  return found


def column_of(row, column: str, number: int, path, use: str) -> str:
  """One field as text; raises UserError if the row has no such column."""
  if column not in row:
    columns = list(row)
    close = nearest(column, columns, 1)
    hint = f' Nearest: {close[0]!r}.' if close else ''
    raise UserError(
      f'{path} line {number} has no column {column!r}, which {use} names; '
      f'the columns there are: {", ".join(columns)}.{hint} Expected it on '
      'every line; correct the file, or what names the column.'
    )
  value = row[column]
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise UserError(
      f'{path} line {number} column {column!r} holds {value!r}; expected a '
      'text or a number. Write it as the text that the model should see.'
    )
  return str(value)


def fill(pieces, row, number: int, path, use: str = 'the template') -> str:
  """The input text of one row."""
  texts = []
  for literal, column, spec in pieces:
    texts.append(literal)
    if column is not None:
      field = column_of(row, column, number, path, use)
      texts.append(format(field, spec))
  return ''.join(texts)
