"""Figures that hold methods against one another, on two steps each."""

import json

import pytest

from launch.figures import dtypes, examples, rates
from tests.launch import small


def _argv(out, tasks, *more):
  return [
    *('--model', small.model(), tasks, small.TASK, '--steps', '2'),
    *('--seeds', '0', '--batch_size', '8', '--out', str(out), *more),
  ]


def _read(out) -> list[dict]:
  return list(map(json.loads, (out / 'results.jsonl').read_text().splitlines()))


@pytest.mark.slow  # compiles the steps of two methods
def test_rates(films, tmp_path, capsys, monkeypatch):
  argv = _argv(tmp_path, '--task', '--rates', '0.3', '--length', '3')
  rates.main(argv)
  rows = _read(tmp_path)
  assert [(row['method'], row['rate']) for row in rows] == [
    (method, 0.3) for method in rates.METHODS
  ]
  shown = capsys.readouterr().out.splitlines()
  assert '| learning rate | 0.3 |' in shown
  assert shown[-1].startswith('| `prompt` |')
  run = tmp_path / 'cells/residual' / f'{small.TASK}_0.3_0_2_'
  (folder,) = run.parent.glob(f'{run.name}*')
  config = (folder / 'config.gin').read_text()
  assert 'LEARNING_RATE = 0.3' in config and 'PROMPT_LENGTH = 3' in config
  monkeypatch.setattr(rates, 'run_cell', None)
  rates.main(argv)  # nothing is made again
  assert _read(tmp_path) == rows


@pytest.mark.slow  # compiles the steps of two methods
def test_examples(films, tmp_path, capsys):
  small.prompts(tmp_path / 'saved', count=2, rows=5)
  examples.main(
    _argv(
      tmp_path,
      '--tasks',
      *('--sources', str(tmp_path / 'saved'), '--examples', '8'),
      *('--methods', *examples.METHODS[:2]),
    )
  )
  rows = _read(tmp_path)
  assert [(row['method'], row['examples']) for row in rows] == [
    (method, 8) for method in examples.METHODS[:2]
  ]
  drawn = (tmp_path / 'rows' / f'{small.TASK}_8_0.train.tsv').read_text()
  assert len(drawn.splitlines()) == 9
  assert '| `attempt` |' in capsys.readouterr().out


@pytest.mark.slow  # compiles a step of each dtype
def test_dtypes(films, tmp_path, capsys, monkeypatch):
  argv = _argv(tmp_path, '--tasks')
  dtypes.main(argv)
  rows = _read(tmp_path)
  assert [row['dtype'] for row in rows] == ['float32', 'bfloat16', 'int8']
  for row in rows:
    assert list(row['curve']) == ['1', '2']
    assert row['curve']['2'] == row['accuracy']
  shown = capsys.readouterr().out.splitlines()
  assert '| step | 1 | 2 |' in shown
  assert shown[-1].startswith(f'| `{small.TASK}` |')
  (folder,) = (tmp_path / 'cells').glob('*_int8_*')
  assert "FROZEN_DTYPE = 'int8'" in (folder / 'config.gin').read_text()
  monkeypatch.setattr(dtypes, 'run_cell', None)
  dtypes.main(argv)  # nothing is made again
  assert _read(tmp_path) == rows


def test_standard_error():
  assert dtypes.standard_error(50.0, 100) == pytest.approx(5.0)
