"""results.jsonl: what is in it, what an interruption leaves, the tables."""

import json

import pytest

from launch import results


def test_rows_are_found_again(tmp_path):
  kept = results.Results(tmp_path / 'new' / 'results.jsonl')
  kept.add({'model': 'mini', 'seed': 0, 'accuracy': 61.0})
  again = results.Results(kept.file)
  assert again.has(model='mini', seed=0)
  assert not again.has(model='mini', seed=1)
  assert not again.has(model='mini', absent=3)
  assert again.where(seed=0) == kept.rows


def test_half_a_line_is_dropped(tmp_path):
  file = tmp_path / 'results.jsonl'
  file.write_text('{"seed": 0}\n{"seed": 1')
  kept = results.Results(file)
  assert kept.rows == [{'seed': 0}]
  kept.add({'seed': 2})
  lines = file.read_text().splitlines()
  assert [json.loads(line)['seed'] for line in lines] == [0, 2]


def test_mean_and_spread():
  mean, spread = results.mean_spread([1.0, 2.0, 6.0])
  assert mean == 3 and spread == pytest.approx(7**0.5)
  assert results.mean_spread([5.0]) == (5.0, 0.0)
  assert results.shown([1.0, 2.0, 6.0]) == '3.0 ± 2.6'
  assert results.shown([5.0]) == '5.0' and results.shown([]) == '-'


def test_markdown():
  text = results.markdown(['length', 1, 5], [['a', 2, 3]])
  assert text == '| length | 1 | 5 |\n| --- | --: | --: |\n| a | 2 | 3 |'
