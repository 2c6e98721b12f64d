"""Speed-ups of a start."""

import json

import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from prompt_jax.transfer import speed

SCRATCH = {0: 50.0, 10: 60.0, 20: 70.0, 40: 80.0, 50: 79.0}


def test_ratios():
  found = speed.speedup(SCRATCH, {0: 65.0, 10: 81.0, 20: 82.0})
  assert found['scratch_steps'] == 40 and found['scratch_best'] == 80
  assert found['comparable_steps'] == 10 and found['comparable'] == 4
  assert found['started_steps'] == 20 and found['convergence'] == 2


def test_never_or_at_once():
  never = speed.speedup(SCRATCH, {0: 65.0, 10: 79.0})
  assert never['comparable_steps'] is None and never['comparable'] is None
  assert 'not reached' in '\n'.join(speed.table(never))
  at_once = speed.speedup(SCRATCH, {0: 90.0, 10: 60.0})
  assert at_once['comparable_steps'] == 0 and at_once['convergence'] is None


def write(folder, values):
  folder.mkdir()
  points = [
    {'group': 'eval', 'step': s, 'accuracy': x} for s, x in values.items()
  ]
  points.append({'group': 'train', 'step': 1, 'accuracy': 0.1})
  lines = ''.join(json.dumps(point) + '\n' for point in points)
  (folder / 'metrics.jsonl').write_text(lines)
  return str(folder)


def test_command(tmp_path, capsys):
  one = write(tmp_path / 'one', SCRATCH)
  two = write(tmp_path / 'two', {0: 60.0, 10: 80.0})
  argv = ['transfer', 'speed', '--scratch', one, '--started', two]
  assert cli.main(argv) == 0
  assert 'comparable     10 steps: 4.00 times' in capsys.readouterr().out


def test_runs_without_evaluations(tmp_path):
  with pytest.raises(UserError, match='expected the MODEL_DIR of a run'):
    speed.curve(tmp_path, 'accuracy')
  one = write(tmp_path / 'one', SCRATCH)
  with pytest.raises(UserError, match="none with 'f1'; expected one of acc"):
    speed.curve(one, 'f1')
