"""The held-out tasks, on two steps."""

import json

import pytest

from launch import full_tuning, held_out, tuning
from tests.launch import small


def _rows(out) -> list[dict]:
  return list(map(json.loads, (out / 'results.jsonl').read_text().splitlines()))


@pytest.mark.slow  # compiles the steps of two lengths
def test_lengths_stand_side_by_side(films, tmp_path, capsys, monkeypatch):
  tune, asked = tuning.tune, []

  def short(model, task, folder, settings, **more):
    asked.append(settings)
    return tune(model, task, folder, {**settings, 'TRAIN_STEPS': 2}, **more)

  monkeypatch.setattr(tuning, 'tune', short)
  argv = [
    *('--models', small.model(), '--tasks', small.TASK, '--seeds', '0'),
    *('--out', str(tmp_path)),
  ]
  held_out.main(argv)
  held_out.main([*argv, '--length', '3'])
  first, second = _rows(tmp_path)
  assert 'length' not in first and second['length'] == 3
  assert second['trainable'] == 3 * small.WIDTH
  assert 'PROMPT_LENGTH' not in asked[0] and asked[1]['PROMPT_LENGTH'] == 3
  for length in ((), ('--length', '3')):
    held_out.main([*argv, *length])  # nothing is made again
  assert len(asked) == 2
  shown = capsys.readouterr().out.splitlines()[-2:]
  assert shown[0].startswith(f'| `{small.TASK}`, `small` | ')
  assert shown[1].startswith(f'| `{small.TASK}`, `small`, 3 rows | ')


def test_share_of_the_gain_of_full_tuning(monkeypatch):
  full = {'mean': 60.0, 'spread': 1.0, 'base_digest': 'd'}
  monkeypatch.setattr(full_tuning, 'stored', lambda *args: full)
  row = {'model': 'm', 'task': 't', 'test': 50.0, 'majority': 20.0}
  (*_, line) = held_out.table([{**row, 'base_digest': 'd'}]).splitlines()
  assert line == '| `t`, `m` | 20.0 | 50.0 | 60.0 ± 1.0 | 75 % |'
