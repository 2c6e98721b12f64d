"""A run and an evaluation in this process, over the small task."""

import json

import numpy as np
import pytest

from launch import tuning
from prompt_jax import params
from prompt_jax.prompts import saved
from tests.launch import small

SETTINGS = {
  'PROMPT_LENGTH': 3,
  'LEARNING_RATE': 0.3,
  'BATCH_SIZE': 16,
  'TRAIN_STEPS': 2,
  'EVAL_PERIOD': 1,
  'BEST_METRIC': 'accuracy',
}


@pytest.fixture
def tuned(films, tmp_path):
  start = 'prompts/random_uniform.gin'
  return tuning.tune(
    small.model(), films, tmp_path / 'run', SETTINGS, start=start
  )


def test_half_a_run_is_no_result(films, tmp_path, monkeypatch):
  monkeypatch.setattr(
    tuning.train, 'train', lambda run: {'reason': 'SIGTERM', 'step': 1}
  )
  with pytest.raises(SystemExit, match='the same command goes on'):
    tuning.tune(small.model(), films, tmp_path / 'run', SETTINGS)


def test_a_run_and_its_evaluation(films, tuned, tmp_path):
  prompt, _ = saved.load(tuned.prompt(), (3, small.WIDTH))
  start, _ = saved.load(tmp_path / 'run/prompts/0' / f'{small.TASK}.npy')
  assert np.abs(prompt - start).max() > 1e-3, 'the prompt did not move'
  assert tuned.summary['step'] == 2 and tuned.step() in (1, 2)
  assert tuned.metrics()['accuracy'] == tuned.summary['best']
  assert tuned.metrics()['split'] == 'validation'
  assert len(tuned.predictions()) == 17
  assert set(tuned.predictions()[0]['scores']) == {'negative', 'positive'}

  found = tuning.evaluate(
    small.model(), films, tmp_path / 'test', tuned.prompt()
  )
  rows = (tmp_path / 'test' / f'{small.TASK}.jsonl').read_text().splitlines()
  rows = [json.loads(row) for row in rows]
  right = [row['prediction'] == row['target'] for row in rows]
  assert len(rows) == 19
  assert found['accuracy'] == pytest.approx(100 * np.mean(right))


def test_lengths_hold_the_longest_label(films):
  assert tuning.lengths(films) == {'inputs': 64, 'targets': 2}


def test_names_and_files_of_models():
  assert tuning.model_file('mini') == 'models/mini.gin'
  assert tuning.model_file('/some/own.gin') == '/some/own.gin'
  assert tuning.base('mini') == 'mini'
  assert tuning.base(small.model()) == str(small.folder() / 'base')


def test_weight_is_the_size_on_disk():
  small.model()
  file = small.folder() / 'base/model.safetensors'
  numbers = params.count(tuning.pretrained.read(str(file.parent), KEYS))
  assert tuning.weight(str(file.parent)) == file.stat().st_size
  assert file.stat().st_size > 4 * numbers > 0


KEYS = ['token_embedder/embedding']
