"""Rows of TSV, CSV and JSONL files, and what is wrong with a bad one."""

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import table


def _rows(path, data):
  path.write_bytes(data)
  return list(table.rows(path))


@pytest.mark.parametrize(
  ('name', 'data', 'row'),
  [
    ('a.tsv', b'text\tlabel\n"x\ty\n', {'text': '"x', 'label': 'y'}),
    ('a.csv', b'text,label\n"x, z",y\n', {'text': 'x, z', 'label': 'y'}),
    ('a.jsonl', b'{"text": "x", "label": "y"}\n', {'text': 'x', 'label': 'y'}),
  ],
)
def test_rows_by_ending(tmp_path, name, data, row):
  assert _rows(tmp_path / name, data)[0][1] == row


@pytest.mark.parametrize(
  ('name', 'data', 'words'),
  [
    ('a.tsv', b'text\tlabel\n\xff\ty\n', 'is not UTF-8 text'),
    ('a.tsv', b'text\ttext\nx\ty\n', "column 'text' twice in its header"),
    ('a.tsv', b'text\tlabel\nx\n', 'line 2 has 1 fields; expected 2'),
    ('a.jsonl', b'{"text": \n', 'line 1 is not JSON'),
    ('a.jsonl', b'[1]\n', 'line 1 holds a JSON list'),
    ('a.txt', b'text\n', "ends in '.txt'"),
  ],
)
def test_bad_files(tmp_path, name, data, words):
  with pytest.raises(UserError, match=words):
    _rows(tmp_path / name, data)
