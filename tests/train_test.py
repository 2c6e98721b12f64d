"""A whole run, small: what it writes, and that it knows its own."""

import json

import jax
import numpy as np
import pytest

from prompt_jax import data, startup, train
from prompt_jax.errors import UserError
from prompt_jax.session import Session
from prompt_jax.training.checkpoint import Checkpoints
from prompt_jax.training.loop import Interruption
from tests import tiny

NAME = 'tiny_prompt'


@pytest.fixture(scope='module')
def run():
  return tiny.trained()


@pytest.fixture(scope='module')
def session(run):
  return Session(run.configured(), Interruption())


@pytest.mark.slow
def test_summary(run):
  said = run.summary
  assert (said['step'], said['reason']) == (4, 'done')
  assert said['trainable'] == 21 and said['total'] > 21
  assert said['cost']['flops'] > 0 and said['train_seconds'] > 0
  assert said['examples_per_second'] >= 8 * said['steps_per_second'] > 0
  phases = dict(said['phases'])
  total = phases.pop('total')
  assert list(phases) == [*startup.PHASES, 'other']
  # seconds are rounded to hundredths
  assert abs(sum(phases.values()) - total) < 0.01 * len(phases)
  assert phases['compile'] > 0 and phases['load'] > 0
  written = json.loads((run.model_dir / 'summary.json').read_text())
  assert written == said
  lines = (run.model_dir / 'metrics.jsonl').read_text().splitlines()
  each = [json.loads(line).get('padding_share') for line in lines]
  each = [share for share in each if share is not None]
  assert len(each) == 4 and said['padding_share'] == pytest.approx(
    np.mean(each)
  )


def test_files_of_a_run(run):
  folder = run.model_dir
  assert (folder / 'config.gin').read_text().startswith('from __gin__')
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  points = [json.loads(line) for line in lines]
  assert [p['step'] for p in points if p['group'] == 'train'] == [1, 2, 3, 4]
  assert [p['step'] for p in points if p['group'] == 'eval'] == [2, 4]
  assert list((folder / 'tensorboard').iterdir())
  for step in '2', '4':
    found = json.loads((folder / 'eval' / step / f'{NAME}.json').read_text())
    assert found['split'] == 'validation' and found['examples'] == 10
    rows = (folder / 'eval' / step / f'{NAME}.jsonl').read_text().splitlines()
    rows = [json.loads(row) for row in rows]
    assert [row['input'] for row in rows[:3]] == ['film 0', 'film 1', 'film 4']
    right = np.mean([row['target'] == row['prediction'] for row in rows])
    assert found['accuracy'] == pytest.approx(100 * right)
    sidecar = json.loads(
      (folder / 'prompts' / step / f'{NAME}.json').read_text()
    )
    assert sidecar['metrics']['accuracy'] == found['accuracy']
    assert sidecar['step'] == int(step) and sidecar['task'] == NAME
    assert sidecar['base'] == 'base'
    assert sidecar['base_digest'] == run.summary['base_digest']


def test_a_checkpoint_holds_what_moves_and_a_manifest(run, session):
  checkpoints = Checkpoints(str(run.model_dir / 'checkpoints'))
  assert checkpoints.steps() == [4]
  manifest = checkpoints.manifest(4)
  assert manifest['data_position'] == 4
  assert manifest['metrics'].keys() == {'accuracy', 'outside'}
  assert manifest['identity'] == session.identity
  state, _ = session.restore()
  assert list(state.trainable) == ['encoder/prompt/prompt']
  np.testing.assert_array_equal(
    state.trainable['encoder/prompt/prompt'], np.load(run.prompt)
  )
  assert int(state.step) == 4


def test_a_done_run_is_not_done_again(run, capsys):
  assert train.train(run.configured())['reason'] == 'done'
  said = capsys.readouterr().out
  assert f'nothing to do: {run.model_dir} is at step 4' in said


def test_a_changed_base_is_caught(run, session):
  session.check_frozen()
  path = 'encoder/layers_0/mlp/wo/kernel'
  kept = session.frozen[path]
  session.frozen[path] = kept.at[2, 3].add(1e-6)
  with pytest.raises(RuntimeError, match='the frozen base changed: digest'):
    session.check_frozen()
  session.frozen[path] = kept
  session.check_frozen()


def test_a_run_starts_from_the_base_on_disk(run, session):
  for path, leaf in session.frozen.items():
    assert leaf.sharding.is_fully_replicated, path
  assert len(next(iter(session.frozen.values())).devices()) == len(
    jax.devices()
  )
  assert session.digest == run.summary['base_digest']


@pytest.mark.slow
def test_evaluation_at_epochs(run, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  settings = {'EVAL_PERIOD': 'epoch', 'MODEL_DIR': tmp_path / 'run'}
  assert train.train(run.configured(**settings))['step'] == 4
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  points = [json.loads(line) for line in lines]
  # 24 examples in batches of 8, and the last step
  assert [p['step'] for p in points if p['group'] == 'eval'] == [3, 4]
  assert 'epochs of 24 examples' in capsys.readouterr().out


def test_an_epoch_of_unknown_length(run, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  monkeypatch.setattr(data.Dataset, 'steps_per_epoch', None)
  settings = {'EVAL_PERIOD': 'epoch', 'MODEL_DIR': tmp_path / 'run'}
  text = "EVAL_PERIOD is 'epoch', but the data does not say how many"
  with pytest.raises(UserError, match=text):
    train.train(run.configured(**settings))
