"""Runs that die and are started again end as those that do not."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from prompt_jax.training.checkpoint import Checkpoints
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 20
SETTINGS = dict(
  TRAIN_STEPS=STEPS,
  EVAL_PERIOD=5,
  DROPOUT_RATE=0.1,
  BEST_METRIC='accuracy',
  LENGTH_BUCKETS=[8, 13],  # the texts have 7 to 9 tokens
)
# (point, exit code, newest checkpoint afterwards); each goes on from the last
LIVES = [
  ('kill-step-3', -signal.SIGKILL, None),  # before the first checkpoint
  ('kill-save-10', -signal.SIGKILL, 5),  # as a checkpoint is written
  ('term-eval-10', 0, 10),  # during an evaluation
  ('kill-step-13', -signal.SIGKILL, 10),  # between two checkpoints
  ('term-step-17', 0, 17),
]


@pytest.fixture
def start():
  """`_start`; what still runs when the test ends is killed."""
  started = []

  def start(*arguments, cache):
    started.append(_start(*arguments, cache=cache))
    return started[-1]

  yield start
  for process in started:
    process.kill()
    process.communicate()


def _start(module, *arguments, cache):
  """A process on one device; a folder holds what it and others compile."""
  environment = {
    **os.environ,
    'XLA_FLAGS': '--xla_backend_optimization_level=1',  # as conftest
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'PYTHONPATH': str(ROOT),
  }
  return subprocess.Popen(
    [sys.executable, '-m', module, *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def ended(process, code):
  """What the process said; it ended as it should."""
  out, err = process.communicate(timeout=600)
  assert process.returncode == code, f'{out}\n{err}'
  return out


def points(model_dir):
  """The points of metrics.jsonl without what depends on the clock."""
  lines = (model_dir / 'metrics.jsonl').read_text().splitlines()
  kept = lambda name: not name.endswith('second') and name != 'seconds'
  return [
    {name: value for name, value in json.loads(line).items() if kept(name)}
    for line in lines
  ]


def files(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.slow
def test_interrupted_and_resumed_is_bitwise_uninterrupted(start, tmp_path):
  tiny.write_files(tmp_path / 'files', name='resumed')
  cache, whole, cut = (tmp_path / n for n in ('cache', 'whole', 'cut'))
  flags = lambda folder: tiny.flags(tmp_path / 'files', folder, **SETTINGS)
  undisturbed = start('prompt_jax.train', *flags(whole)[1:], cache=cache)

  for point, code, newest in LIVES:
    life = start('tests.interrupted_runner', point, *flags(cut), cache=cache)
    said = ended(life, code)
    steps = Checkpoints(str(cut / 'checkpoints')).steps()
    assert (steps[-1] if steps else None) == newest, point
    if code == 0:
      assert f'SIGTERM: saved step {newest}; run the same command' in said
    if point == 'kill-save-10':
      assert list((cut / 'checkpoints').glob('10.*')), 'nothing half-written'
  last = start('prompt_jax.train', *flags(cut)[1:], cache=cache)
  assert 'going on at step 17' in ended(last, 0)
  said = ended(undisturbed, 0)
  assert 'batches of 8, 13 input tokens, each as its examples need' in said

  name = f'prompts/{STEPS}/resumed.npy'
  np.testing.assert_array_equal(np.load(cut / name), np.load(whole / name))
  assert (cut / name).read_bytes() == (whole / name).read_bytes()
  assert (
    np.load(whole / name) != np.load(whole / 'prompts/5/resumed.npy')
  ).any()
  # every point once and in order, the evaluations and the best step too
  assert points(cut) == points(whole) and len(points(whole)) == STEPS + 4
  assert files(cut / 'eval') == files(whole / 'eval')
  one, two = (Checkpoints(str(f / 'checkpoints')) for f in (cut, whole))
  assert one.steps() == two.steps()
  assert one.manifest(STEPS)['best'] == two.manifest(STEPS)['best']
  for step in 5, 10, 15, STEPS:
    sidecar = json.loads((cut / f'prompts/{step}/resumed.json').read_text())
    assert sidecar['metrics'].keys() == {'accuracy', 'outside'}, step
