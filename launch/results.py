"""Results of many runs: a line each in a file that an interruption keeps."""

from collections.abc import Callable, Iterable, Sequence
import json
import math
import os
import pathlib
from typing import Any

Row = dict[str, Any]


class Results:
  """`results.jsonl`: one JSON object a line, appended when a cell is done.

  Args:
    file: made with its folder if need be. A last line without an end, which
      an interruption may leave, is dropped.
  """

  def __init__(self, file: str | os.PathLike):
    self.file = pathlib.Path(file)
    self.file.parent.mkdir(parents=True, exist_ok=True)
    text = self.file.read_text() if self.file.is_file() else ''
    whole = text[: text.rfind('\n') + 1]
    if whole != text:
      self.file.write_text(whole)
    self.rows: list[Row] = [json.loads(line) for line in whole.splitlines()]

  def has(self, **cell) -> bool:
    """Whether some row agrees with all of these fields."""
    return any(self._agrees(row, cell) for row in self.rows)

  def where(self, **cell) -> list[Row]:
    """The rows that agree with all of these fields."""
    return [row for row in self.rows if self._agrees(row, cell)]

  def add(self, row: Row) -> None:
    """Appends a row, on disk when this returns."""
    with self.file.open('a') as file:
      file.write(json.dumps(row) + '\n')
      file.flush()
      os.fsync(file.fileno())
    self.rows.append(row)

  def filled(
    self,
    cells: Sequence[Row],
    make: Callable[[Row], Row],
    say: Callable[[Row], str],
  ) -> list[Row]:
    """The rows of some cells, made where they are missing.

    Args:
      cells: the fields that tell one from another.
      make: cell -> fields of its row, those of the cell need not be repeated.
      say: row -> a line of progress.
    """
    rows = []
    for number, cell in enumerate(cells, 1):
      if not self.has(**cell):
        self.add({**cell, **make(cell)})
      rows.append(self.where(**cell)[-1])
      print(f'{number}/{len(cells)} {say(rows[-1])}', flush=True)
    return rows

  @staticmethod
  def _agrees(row: Row, cell: Row) -> bool:
    return all(row.get(key) == value for key, value in cell.items())


def mean_spread(values: Iterable[float]) -> tuple[float, float]:
  """Mean and sample standard deviation (0 of a single value)."""
  values = list(values)
  mean = math.fsum(values) / len(values)
  square = math.fsum((x - mean) ** 2 for x in values)
  return mean, math.sqrt(square / max(len(values) - 1, 1))


def shown(values: Iterable[float]) -> str:
  """'63.9 ± 1.8', or '-' of nothing; one value has no spread."""
  values = list(values)
  if not values:
    return '-'
  mean, spread = mean_spread(values)
  return f'{mean:.1f}' if len(values) == 1 else f'{mean:.1f} ± {spread:.1f}'


def markdown(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
  """A Markdown table; the first column is text, the others are numbers."""
  line = lambda cells: '| ' + ' | '.join(map(str, cells)) + ' |'
  rule = ['---', *(['--:'] * (len(header) - 1))]
  return '\n'.join([line(header), line(rule), *map(line, rows)])
