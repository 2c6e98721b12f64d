"""Sums into metrics, and points into files."""

import json
import pathlib

import numpy as np
import pytest

from prompt_jax.training.metrics import (
  Log,
  Meter,
  NonFiniteError,
  check_finite,
)

SUMS = {
  'loss': 8.0,
  'z_loss': 2.0,
  'correct': 3.0,
  'weights': 4.0,
  'tokens': 5.0,
  'sequences': 2.0,
  'rate': 1.0,
  'bad': np.array([False, False]),
}


def points(folder):
  lines = pathlib.Path(folder, 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_meter_divides_at_the_end_only():
  now = [0.0]
  meter = Meter(lambda: now[0])
  meter.add(SUMS)
  meter.add({**SUMS, 'loss': 1.0, 'weights': 14.0, 'rate': 0.5})
  now[0] = 4.0
  assert meter.steps == 2
  assert meter.metrics() == {
    'loss': 9 / 18,
    'z_loss': 4 / 18,
    'accuracy': 6 / 18,
    'learning_rate_factor': 0.75,
    'steps_per_second': 0.5,
    'seqs_per_second': 1.0,
    'target_tokens_per_second': 2.5,
  }
  assert meter.steps == 0
  meter.add(SUMS)
  assert meter.metrics()['loss'] == 2.0


def test_meter_adds_in_float64():
  meter = Meter()
  for value in 2.0**25, 1.0, 1.0:  # float32 would lose both ones
    meter.add({**SUMS, 'loss': np.float32(value), 'weights': np.float32(1)})
  assert meter.metrics()['loss'] == (2.0**25 + 2) / 3


@pytest.mark.parametrize(
  ('sums', 'said'),
  [
    ({'loss': np.nan}, 'step 7 is nan (all gradients are finite)'),
    ({'bad': np.array([False, True])}, 'step 7 is 8.0 (first bad leaf: b/two)'),
    ({'loss': np.inf, 'bad': np.array([True, True])}, 'bad leaf: a/one)'),
  ],
)
def test_what_is_not_finite_is_named(sums, said):
  paths = ['a/one', 'b/two']
  check_finite(7, SUMS, paths)
  with pytest.raises(NonFiniteError, match='Lower the learning rate') as caught:
    check_finite(7, {**SUMS, **sums}, paths)
  assert said in str(caught.value)
  assert 'The last checkpoint is from before this step' in str(caught.value)


def test_resume_drops_later_points_and_broken_lines(tmp_path):
  log = Log(str(tmp_path))
  for step in range(1, 6):
    log.write(step, 'train', {'loss': step / 7})
  log.write(3, 'eval', {'accuracy': 50.0})
  log.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 2, "gro')  # cut short by a death
  log = Log(str(tmp_path), 3)
  log.write(3, 'eval', {'accuracy': 75.0})  # is there: made again
  log.write(4, 'train', {'loss': 0.5})
  log.close()
  assert [(p['step'], p['group']) for p in points(tmp_path)] == [
    (1, 'train'),
    (2, 'train'),
    (3, 'train'),
    (3, 'eval'),
    (4, 'train'),
  ]
  assert points(tmp_path)[3]['accuracy'] == 50.0
  assert points(tmp_path)[4]['loss'] == 0.5
  assert not list(tmp_path.glob('*.tmp'))


def test_jsonl_and_tensorboard_agree(tmp_path):
  reason = 'tensorboard reads its own event files; it is not installed'
  reader = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator', reason=reason
  )
  log = Log(str(tmp_path))
  for step in range(1, 5):
    log.write(step, 'train', {'loss': step / 7, 'accuracy': 1 / step})
  log.write(4, 'eval', {'f1_macro': 200 / 3})
  log.close()
  log = Log(str(tmp_path), 2)  # steps 3 and 4 are made again
  log.write(3, 'train', {'loss': 0.25, 'accuracy': 0.75})
  log.close()
  events = reader.EventAccumulator(str(tmp_path / 'tensorboard'))
  events.Reload()
  shown = {
    (event.step, tag): event.value
    for tag in events.Tags()['scalars']
    for event in events.Scalars(tag)
  }
  wrote = {
    (p['step'], f'{p["group"]}/{name}'): np.float32(value)
    for p in points(tmp_path)
    for name, value in p.items()
    if name not in ('step', 'group', 'seconds')
  }
  assert shown == wrote and len(wrote) == 6
