"""Prompts that train in one program are those that train alone."""

import csv
import itertools
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from prompt_jax import cli, combinations, member, standings, train
from prompt_jax.errors import UserError
from prompt_jax.training import loop, sharding
from tests import tiny

NAME = 'tiny_sweep'
SETTINGS = dict(
  BEST_METRIC='accuracy',
  EVAL_PERIOD=2,
  LENGTH_BUCKETS=[7, 13],  # batches of two shapes
)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch):
  """Runs leave alone where JAX keeps compiled programs."""
  known = os.environ.get('JAX_COMPILATION_CACHE_DIR', 'unused')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', known)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep')
  tiny.write_files(folder / 'files', name=NAME)
  return folder


def command(folder, model_dir, *more, **settings):
  """The arguments of a sweep over the tiny model."""
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base(), **SETTINGS, **settings}
  flags = tiny.flags(folder / 'files', model_dir, **settings)[1:]
  flags = [flag.replace('runs/train.gin', 'runs/sweep.gin') for flag in flags]
  return [*flags, *more]


def swept(flags):
  """The exit status of a sweep."""
  return cli.main(['sweep', *flags])


def alone(folder, model_dir, **settings):
  """A run alone, trained on one device; its folder."""
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base(), **SETTINGS, **settings}
  run = tiny.configured(folder / 'files', model_dir, **settings)
  run.mesh = sharding.make_mesh(data_parallel=1)
  train.train(run)
  return model_dir


def prompt(folder, step=4):
  return np.load(folder / 'prompts' / str(step) / f'{NAME}.npy')


def same_prompts(folder, trained):
  """Asserts that seeds 0 and 2 of a sweep are those of `trained`."""
  for seed in 0, 2:
    np.testing.assert_allclose(
      prompt(folder / f'seed_{seed}'),
      prompt(trained / f'rate_0.3-seed_{seed}'),
      rtol=0,
      atol=1e-5,
    )


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  points = [json.loads(line) for line in lines]
  assert {p['group'] for p in points} == {'train', 'eval'}
  return [
    (p['step'], p.get('loss', p.get('accuracy')), p.get('learning_rate_factor'))
    for p in points
  ]


@pytest.fixture(scope='module')
def trained(folder):
  """A sweep of two rates and two seeds, a device each."""
  flags = command(folder, folder / 'many')
  more = ['--gin.SWEEP_SEEDS=[0, 2]', '--gin.SWEEP_RATES=[0.1, 0.3]']
  assert swept([*flags, *more]) == 0
  return folder / 'many'


@pytest.mark.slow
def test_equal_to_runs_alone(folder, trained):
  for rate, seed in (0.1, 2), (0.3, 0):
    one = trained / f'rate_{rate}-seed_{seed}'
    same = alone(
      folder, folder / f'{rate}', LEARNING_RATE=rate, RANDOM_SEED=seed
    )
    for step in 0, 4:
      np.testing.assert_allclose(
        prompt(one, step), prompt(same, step), rtol=0, atol=1e-5
      )
    assert np.abs(prompt(one, 4) - prompt(one, 0)).max() > 1e-3
    mine, theirs = losses(one), losses(same)
    assert [p[0] for p in mine] == [p[0] for p in theirs]
    for a, b in zip(mine, theirs, strict=True):
      assert a[1] == pytest.approx(b[1], abs=1e-5)
      assert a[2] == b[2]
    sidecars = [
      json.loads((f / 'prompts' / '4' / f'{NAME}.json').read_text())
      for f in (one, same)
    ]
    norms = [each.pop('mean_row_norm') for each in sidecars]
    assert norms[0] == pytest.approx(norms[1], abs=1e-5)
    assert sidecars[0] == sidecars[1]
    config = (one / 'config.gin').read_text()
    assert f'LEARNING_RATE = {rate}' in config
    assert f'RANDOM_SEED = {seed}' in config
    assert {f.name for f in one.iterdir()} >= {
      f.name for f in same.iterdir() if f.name != 'compiled'
    }


@pytest.mark.slow
def test_dropout_is_that_of_runs_alone(folder):
  settings = dict(DROPOUT_RATE=0.1, LENGTH_BUCKETS=None, EVAL_PERIOD=0)
  settings |= dict(BEST_METRIC=None, TRAIN_STEPS=2)
  flags = command(folder, folder / 'dropped', **settings)
  assert swept([*flags, '--gin.SWEEP_SEEDS=[0, 2]']) == 0
  same = alone(folder, folder / 'dropped_alone', RANDOM_SEED=2, **settings)
  found = prompt(folder / 'dropped' / 'seed_2', 2)
  np.testing.assert_allclose(found, prompt(same, 2), rtol=0, atol=1e-5)
  other = prompt(folder / 'dropped' / 'seed_0', 2)
  assert np.abs(found - other).max() > 1e-3


@pytest.mark.slow
def test_tasks_with_targets_of_other_lengths(folder):
  settings = {
    'TASK_FEATURE_LENGTHS': {'inputs': 13, 'targets': 11},
    'LENGTH_BUCKETS': 'auto',  # cuts targets to the longest there is
    'EVAL_MODE': 'generate',
    'EVAL_PERIOD': 0,
    'EVAL_STEPS': 1,
    'BEST_METRIC': None,
    'MIXTURE_OR_TASK_NAME': None,
  }
  tasks = ['movie_sentiment', 'tweet_valence']  # words, and numbers
  flags = command(folder, folder / 'tasks', **settings)
  assert swept([*flags, f'--gin.SWEEP_TASKS={tasks}']) == 0
  for task in tasks:
    own = settings | {'MIXTURE_OR_TASK_NAME': task}
    same = alone(folder, folder / task, **own)
    found = [
      np.load(run / 'prompts' / '4' / f'{task}.npy')
      for run in (folder / 'tasks' / task, same)
    ]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_starts_are_those_of_runs_alone(folder):
  saved = folder / 'first.npy'
  np.save(saved, np.linspace(-1, 1, 21, dtype=np.float32).reshape(3, 7))
  flags = command(folder, folder / 'begun', EVAL_PERIOD=0)
  starts = ['random_uniform', str(saved)]
  assert swept([*flags, f'--gin.SWEEP_STARTS={starts}']) == 0
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base(), **SETTINGS}
  settings |= {'EVAL_PERIOD': 0}
  flags = tiny.flags(folder / 'files', folder / 'drawn', **settings)
  assert cli.main([*flags, '--gin_file=prompts/random_uniform.gin']) == 0
  one = prompt(folder / 'begun' / 'random_uniform')
  np.testing.assert_allclose(one, prompt(folder / 'drawn'), rtol=0, atol=1e-5)
  run = folder / 'begun' / 'first'
  np.testing.assert_array_equal(prompt(run, 0), np.load(saved))
  assert np.abs(prompt(run) - np.load(saved)).max() > 1e-3


@pytest.mark.slow
def test_what_it_leaves(trained):
  found = json.loads((trained / 'results.json').read_text())
  assert [row['name'] for row in found['rows']] == [
    f'rate_{rate}-seed_{seed}' for rate in (0.1, 0.3) for seed in (0, 2)
  ]
  assert {row['reason'] for row in found['rows']} == {'done'}
  for row in found['rows']:
    where = trained / row['name'] / 'eval' / str(row['evaluated_step'])
    one = json.loads((where / f'{NAME}.json').read_text())
    assert row['metrics']['accuracy'] == one['accuracy']
  with (trained / 'results.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [float(row['rate']) for row in rows] == [0.1, 0.1, 0.3, 0.3]
  assert (trained / 'results.png').stat().st_size > 1000
  table = (trained / 'results.md').read_text().splitlines()
  assert table[0].startswith('| task | start | rate | seed |')
  assert len(table) == 6


@pytest.mark.slow
def test_on_fewer_devices_it_is_the_same(folder, trained, capsys):
  """Three of them on two devices, one after the other, and for want of room."""
  flags = command(folder, folder / 'spread', '--gin.SWEEP_SEEDS=[0, 2, 1]')
  assert swept([*flags, '--gin.SWEEP_DEVICES=2']) == 0
  assert 'one program take' not in capsys.readouterr().out
  flags = command(folder, folder / 'one', '--gin.SWEEP_SEEDS=[0, 2]')
  assert swept([*flags, '--gin.SWEEP_DEVICES=1']) == 0
  flags = command(folder, folder / 'room', '--gin.SWEEP_SEEDS=[0, 2]')
  assert swept([*flags, '--gin.SWEEP_MEMORY=4.2e-4']) == 0
  said = capsys.readouterr().out
  assert '2 devices with a base and a program each take 0.00 GB; exp' in said
  assert '(SWEEP_MEMORY): 1 of them' in said
  assert 'one program take' not in said
  for name in 'spread', 'one', 'room':
    same_prompts(folder / name, trained)
  other = prompt(folder / 'spread' / 'seed_1')
  assert np.abs(other - prompt(folder / 'one' / 'seed_0')).max() > 1e-3


@pytest.mark.slow
def test_vectorised_and_in_groups_it_is_the_same(folder, trained, capsys):
  flags = command(folder, folder / 'two', '--gin.SWEEP_TOGETHER=2')
  more = ['--gin.SWEEP_SEEDS=[0, 2]', '--gin.SWEEP_MEMORY=1e-5']
  assert swept([*flags, *more]) == 0
  said = capsys.readouterr().out
  assert '2 prompts in one program take' in said
  assert 'expected at most 0.00 GB (SWEEP_MEMORY): 1 of them at a time' in said
  assert 'groups of 1, 1, one after the other; even one is above it' in said
  flags = command(folder, folder / 'both', '--gin.SWEEP_TOGETHER=2')
  assert swept([*flags, '--gin.SWEEP_SEEDS=[0, 2]']) == 0
  assert 'one program take' not in capsys.readouterr().out
  for name in 'two', 'both':
    same_prompts(folder / name, trained)


@pytest.mark.slow
def test_interrupted_it_goes_on(folder, trained, monkeypatch, capsys):
  """One member is a checkpoint behind, as when it dies between two saves."""
  where = folder / 'again'
  flags = command(folder, where, '--gin.SWEEP_SEEDS=[0, 2]')
  calls = iter([False] * 3)
  stops = property(lambda self: next(calls, True), lambda self, value: None)
  with monkeypatch.context() as patched:
    patched.setattr(loop.Interruption, 'requested', stops, raising=False)
    assert swept(flags) == 0
  assert 'SIGTERM: saved' in capsys.readouterr().out
  found = json.loads((where / 'results.json').read_text())['rows']
  assert {row['reason'] for row in found} == {'SIGTERM'}
  assert 0 < found[0]['steps'] < 4
  shutil.rmtree(where / 'seed_2')
  assert swept(flags) == 0
  same_prompts(where, trained)
  assert swept(flags) == 0
  assert '2 prompts, 0 of them to train' in capsys.readouterr().out


@pytest.mark.slow
def test_a_member_stops_and_another_diverges(folder, monkeypatch, capsys):
  calls = itertools.count()

  def check(step, sums, paths):
    if next(calls) == 1:  # the first update of the second member
      raise member.NonFiniteError(f'The loss of step {step} is nan.')

  monkeypatch.setattr(member, 'check_finite', check)
  flags = command(
    folder, folder / 'ends', PATIENCE=1, EVAL_PERIOD=1, LENGTH_BUCKETS=None
  )
  assert swept([*flags, '--gin.SWEEP_RATES=[1e-9, 0.3]']) == 0
  rows = json.loads((folder / 'ends' / 'results.json').read_text())['rows']
  assert [row['reason'] for row in rows] == ['patience', 'diverged']
  assert rows[0]['steps'] == 2 and rows[0]['evaluated_step'] == 1
  assert rows[1]['metrics'] == {}
  said = capsys.readouterr().out
  assert 'rate_0.3: The loss of step 1 is nan.' in said
  assert '| patience |' in said and '| diverged |' in said


@pytest.mark.parametrize(
  ('flag', 'told'),
  [
    ('SWEEP_SEEDS=[]', 'SWEEP_SEEDS is []; expected a list of distinct whole'),
    ('SWEEP_SEEDS=[1, 1]', 'SWEEP_SEEDS is [1, 1]; expected a list of distin'),
    ('SWEEP_RATES=[0.0]', 'SWEEP_RATES is [0.0]; expected a list of distinct'),
    ('SWEEP_STARTS=["random_unifrm"]', 'Nearest: random_uniform.'),
    ('SWEEP_STARTS=["no.npy"]', "names 'no.npy', which is no file"),
    ('SWEEP_TASKS=["movie_sentimnt"]', 'movie_sentiment'),
    ('SWEEP_TASKS="movie_sentiment"', "SWEEP_TASKS is 'movie_sentiment'; exp"),
    ('SWEEP_MEMORY=0', 'SWEEP_MEMORY is 0; expected gigabytes, above 0'),
    ('SWEEP_TOGETHER=0', 'SWEEP_TOGETHER is 0; expected a whole number'),
    ('SWEEP_DEVICES=0.5', 'SWEEP_DEVICES is 0.5; expected a whole number of C'),
  ],
)
def test_bad_input(folder, flag, told, capsys):
  flags = command(folder, folder / 'none', f'--gin.{flag}', '--dry_run')
  if not flag.startswith(('SWEEP_SEEDS', 'SWEEP_TASKS')):
    flags.append('--gin.SWEEP_SEEDS=[3]')
  if 'SWEEP_TASKS' in flag:
    flags = [f for f in flags if 'MIXTURE' not in f and 'task.gin' not in f]
    flags.append("--gin.VOCABULARY='shipped'")
  assert swept(flags) == 2
  assert told in capsys.readouterr().err
  assert not (folder / 'none').exists()


def _told(folder, capsys, *more, drop=(), **settings):
  flags = command(folder, folder / 'none', '--dry_run', *more, **settings)
  flags = [f for f in flags if not any(part in f for part in drop)]
  assert swept(flags) == 2
  return capsys.readouterr().err


def test_what_cannot_be_swept(folder, capsys):
  seeds = '--gin.SWEEP_SEEDS=[0, 1]'
  assert 'has nothing to vary; expected' in _told(folder, capsys)
  told = _told(folder, capsys, seeds, INITIAL_CHECKPOINT_PATH='None')
  assert 'INITIAL_CHECKPOINT_PATH is None; expected a trained base' in told
  told = _told(folder, capsys, seeds, RANDOM_SEED=3)
  assert 'RANDOM_SEED and SWEEP_SEEDS are both given' in told
  told = _told(folder, capsys, seeds, drop=['MODEL_DIR'])
  assert '--gin.MODEL_DIR=...' in told
  told = _told(folder, capsys, seeds, drop=['MIXTURE', 'task.gin'])
  assert 'The sweep has no task; expected SWEEP_TASKS' in told
  told = _told(folder, capsys, seeds, '--gin.CLASS_LABELS=["no"]')
  assert 'none of the starts [] reads it' in told
  told = _told(folder, capsys, seeds, drop=['sweep.gin'])
  assert 'say nothing of a sweep; expected runs/sweep.gin' in told


@pytest.mark.slow
def test_full_tuning_shares_nothing(folder, capsys):
  flags = command(folder, folder / 'full', method='full')
  assert swept([*flags, '--gin.SWEEP_SEEDS=[0, 1]']) == 2
  assert 'a sweep has nothing to share' in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore:population=5000')  # of a tiny vocabulary
def test_starts(folder, capsys):
  saved = folder / 'start.npy'
  np.save(saved, np.zeros((3, 7), np.float32))
  starts = ['random_uniform', 'from_class_labels', str(saved)]
  flags = command(folder, folder / 'starts', f'--gin.SWEEP_STARTS={starts}')
  flags += ['--gin.CLASS_LABELS=["no", "yes"]', '--dry_run']
  assert swept(flags) == 0
  names = [pathlib.Path(p).name for p in capsys.readouterr().out.split()]
  assert names == ['random_uniform', 'from_class_labels', 'start']
  with pytest.raises(UserError, match='is no file'):
    combinations.start_file('nowhere.npy')


def test_order_of_the_table():
  row = lambda name, **metrics: {'name': name, 'metrics': metrics}
  rows = [row('a', f1=1.0), row('b'), row('c', f1=3.0, accuracy=0.5)]
  order = standings.ranked(rows, None)
  assert [each['name'] for each in order] == ['c', 'a', 'b']
  assert standings.ranked(rows, 'accuracy')[0]['name'] == 'c'
