"""Files that are whole or absent: written beside, then renamed."""

import json
import os
import pathlib
from typing import Any


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file; at any moment the old or the new one is there."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    beside.write_text(text, encoding='utf-8')
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as indented JSON."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def write_json_lines(path: str | os.PathLike, rows) -> None:
  """Writes one JSON object a line."""
  lines = (json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
  write_text(path, ''.join(lines))
