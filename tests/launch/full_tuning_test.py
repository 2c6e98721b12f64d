"""Full fine-tuning of the small base, and the file that the demo reads."""

import json

import pytest

from launch import full_tuning
from tests.launch import small


@pytest.mark.slow
def test_the_file_holds_what_was_found(films, tmp_path, monkeypatch, capsys):
  short = {**full_tuning.SETTINGS, 'BATCH_SIZE': 16}
  monkeypatch.setattr(full_tuning, 'SETTINGS', short)
  file, out = tmp_path / 'full.json', tmp_path / 'out'
  full_tuning.main(
    [
      *('--models', small.model(), '--tasks', small.TASK),
      *('--rates', '1e-3', '3e-2', '--seeds', '0', '1', '--steps', '3'),
      *('--out', str(out), '--file', str(file)),
    ]
  )
  found = json.loads(file.read_text())[small.TASK]['small']
  assert found['seeds'] == [0, 1] and len(found['tests']) == 2
  assert found['mean'] == pytest.approx(sum(found['tests']) / 2)
  rates = found['validation_by_rate']
  best = max(rates.values())
  assert set(rates) == {'0.001', '0.03'}
  assert rates[f'{found["settings"]["LEARNING_RATE"]:g}'] == best
  for seed, test in enumerate(found['tests']):
    run = (
      out / small.TASK / 'small' / f'{found["settings"]["LEARNING_RATE"]:g}_'
      f'{seed}'
    )
    written = json.loads((run / 'test' / f'{small.TASK}.json').read_text())
    assert written['accuracy'] == test and written['split'] == 'test'
    # what was tested is not the base: its weights were trained
    assert written['base_digest'] != found['base_digest']
    assert not (run / 'whole').exists()
  assert found['base_digest'] and len(found['date']) == 10
  assert f'{small.TASK}, {small.model()}: test accuracy' in (
    capsys.readouterr().out
  )
