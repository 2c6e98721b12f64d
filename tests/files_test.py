"""Files are whole or absent."""

import json
import os

import pytest

from prompt_jax import files


def test_text_is_written_with_its_folders_and_nothing_beside(tmp_path):
  path = tmp_path / 'a' / 'b' / 'c.txt'
  files.write_text(path, 'é\n')
  files.write_text(path, 'ü\n')
  assert path.read_bytes() == 'ü\n'.encode()
  assert list(path.parent.iterdir()) == [path]


def test_json_keeps_order_and_letters(tmp_path):
  files.write_json(tmp_path / 'a.json', {'b': 'ß', 'a': [1.5]})
  text = (tmp_path / 'a.json').read_text('utf-8')
  assert text.endswith('}\n') and '"ß"' in text
  assert list(json.loads(text)) == ['b', 'a']


def test_lines_hold_one_object_each(tmp_path):
  rows = [{'text': 'one\ntwo'}, {'text': 'ß'}]
  files.write_json_lines(tmp_path / 'a.jsonl', iter(rows))
  lines = (tmp_path / 'a.jsonl').read_text('utf-8').split('\n')
  assert [json.loads(line) for line in lines[:-1]] == rows and lines[-1] == ''


def test_the_old_file_stays_where_the_new_one_fails(tmp_path, monkeypatch):
  path = tmp_path / 'a.txt'
  files.write_text(path, 'old')

  def fails(*_):
    raise OSError(28, 'No space left on device')

  with pytest.raises(TypeError):
    files.write_json(path, {'a': object()})
  monkeypatch.setattr(os, 'replace', fails)
  with pytest.raises(OSError, match='No space left'):
    files.write_text(path, 'new')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
