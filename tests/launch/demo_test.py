"""The demo on a small base and task: every figure it prints is a real one."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from launch import curve, demo, full_tuning
import prompt_jax
from prompt_jax.tasks import local
from tests.launch import small

ROOT = pathlib.Path(__file__).parents[2]
KEYS = {
  *('task', 'metric', 'test', 'untuned', 'majority', 'steps', 'best_step'),
  *('train_seconds', 'trainable', 'total_params', 'prompt_file'),
  *('prompt_bytes', 'reload_test', 'tfidf', 'full', 'curve', 'sentences'),
}
CURVE = {
  16: {'prompt': 50.0, 'tfidf': 60.0},
  7144: {'prompt': 75.0, 'tfidf': 100.0},
}


@pytest.fixture
def small_demo(films, monkeypatch, tmp_path):
  monkeypatch.setattr(demo, 'TASK', small.TASK)
  monkeypatch.setattr(demo, 'SETTINGS', {**demo.SETTINGS, 'BATCH_SIZE': 16})
  short = {**curve.SETTINGS, 'TRAIN_STEPS': 2, 'EVAL_PERIOD': 1}
  monkeypatch.setattr(curve, 'SETTINGS', short)
  monkeypatch.setattr(demo, 'reloaded', lambda *_: 12.5)
  argv = ['--model', small.model(), '--folder', str(tmp_path / 'demo')]
  return [*argv, '--steps', '2', '--few', '6']


@pytest.mark.slow
def test_the_json_line(small_demo, capsys, films):
  demo.main([*small_demo, '--sentences', 'a warm film', 'a dull film'])
  out = capsys.readouterr().out
  found = json.loads(out.splitlines()[-1])
  assert KEYS <= found.keys()
  assert found['steps'] == 2 and found['trainable'] == 20 * small.WIDTH
  assert found['majority'] == pytest.approx(100 * 12 / 19)
  assert set(found['curve']) == {'6', '48'}
  whole = {'prompt': found['test'], 'tfidf': found['tfidf']}
  assert found['curve']['48'] == whole
  assert found['full'] is None and found['reload_test'] == 12.5
  size = pathlib.Path(found['prompt_file']).stat().st_size
  assert found['prompt_bytes'] == size
  assert f'a file of {size:,} bytes' in out and 'Frozen: ' in out
  assert 'make demo-full' in out

  # the probabilities are the softmax of what the loaded model scores
  base, labels = str(small.folder() / 'base'), films.target_texts()
  model = prompt_jax.load(base, prompt=found['prompt_file'])
  for each in found['sentences']:
    odds = np.exp(model.scores([each['text']], labels)[0])
    shares = list(each['probabilities'].values())
    np.testing.assert_allclose(shares, odds / odds.sum(), rtol=1e-3)
    assert each['label'] == labels[int(np.argmax(shares))]


@pytest.mark.slow
def test_both_methods_see_the_same_rows(small_demo, films, tmp_path):
  point = curve.point(
    small.model(),
    films,
    8,
    1,
    tmp_path / 'few',
    {**demo.SETTINGS, 'RANDOM_SEED': 0},
    demo.START,
  )
  few = local.definition(f'{small.TASK}_8_1')
  targets = [target for _, target in local.examples(few, 'train')]
  assert sorted(targets) == ['negative'] * 4 + ['positive'] * 4
  assert set(point) == {'prompt', 'tfidf'}
  assert all(0 <= value <= 100 for value in point.values())


@pytest.mark.slow
def test_the_demo_as_it_is_run(tmp_path):
  command = [sys.executable, '-m', 'launch.demo', '--model', small.model()]
  run = subprocess.run(
    [*command, '--folder', str(tmp_path), '--steps', '2', '--few', '4'],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr[-2000:]
  found = json.loads(run.stdout.splitlines()[-1])
  assert found['reload_test'] == found['test']
  assert set(found['curve']) == {'4', '7144'}
  assert [each['text'] for each in found['sentences']] == list(demo.SENTENCES)


def test_bars_are_as_long_as_the_figures():
  lines = curve.bars(CURVE, floor=25.0, width=40).splitlines()
  assert len(lines) == 4
  filled = [line.count('█') for line in lines]
  assert filled == [19, 23, 29, 39]  # one place holds the mark
  assert all(line[14:54].index('│') == 10 for line in lines)
  assert lines[0].startswith('    16 prompt') and lines[0].endswith(' 50.0')
  assert lines[2].startswith(' 7,144 prompt') and lines[3].endswith('100.0')


def test_picture(tmp_path):
  pytest.importorskip('matplotlib')
  file = tmp_path / 'curve.png'
  assert curve.picture(CURVE, 51.1, 'films', file)
  assert file.read_bytes().startswith(b'\x89PNG')


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  assert not curve.picture(CURVE, 51.1, 'films', tmp_path / 'curve.png')
  assert not list(tmp_path.iterdir())


def test_a_stored_figure_is_shown_with_its_date():
  full = {'mean': 70.25, 'spread': 1.0, 'seeds': [0, 1, 2]}
  name, value = demo.full_row({**full, 'date': '2026-11-23'})
  assert name == 'full fine-tuning, 3 seeds, on 2026-11-23'
  assert value == '70.2 ± 1.0'


def test_a_figure_of_another_base_is_not_shown(tmp_path):
  file = tmp_path / 'full.json'
  full_tuning.store('films', 'mini', {'base_digest': 'aa', 'mean': 1}, file)
  full_tuning.store('films', 'midi', {'base_digest': 'bb', 'mean': 2}, file)
  assert full_tuning.stored('films', 'mini', 'aa', file)['mean'] == 1
  assert full_tuning.stored('films', 'midi', 'bb', file)['mean'] == 2
  assert full_tuning.stored('films', 'mini', 'bb', file) is None
  assert full_tuning.stored('pairs', 'mini', 'aa', file) is None
  assert full_tuning.stored('films', 'mini', 'aa', tmp_path / 'no') is None
