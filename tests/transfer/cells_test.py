"""Cells on disk: kept, of one array, of one setting."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer.cells import Cells

PROMPT = np.ones((3, 5), np.float32)


def test_a_cell_is_kept_for_its_array(tmp_path):
  path = tmp_path / 'cells' / 'a.json'
  Cells(path, {'split': 'test'}).put('s', PROMPT, 61.0, {'accuracy': 61.0})
  again = Cells(path, {'split': 'test'})
  assert again.get('s', PROMPT)['score'] == 61
  assert again.get('s', PROMPT + 1) is None
  assert again.get('other', PROMPT) is None


def test_other_settings_are_refused(tmp_path):
  path = tmp_path / 'a.json'
  Cells(path, {'split': 'test', 'how': 'rank'}).put('s', PROMPT, 1.0, {})
  with pytest.raises(UserError) as caught:
    Cells(path, {'split': 'train', 'how': 'rank'})
  assert 'split: there test, here train' in str(caught.value)
  assert 'how' not in str(caught.value)


def test_a_file_of_something_else(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('[]')
  with pytest.raises(UserError, match='cannot be read as cells'):
    Cells(path, {})


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  cells = Cells(None, {})
  cells.put('s', PROMPT, 2.0, {})
  assert cells.get('s', PROMPT)['score'] == 2
  assert not list(tmp_path.iterdir())
