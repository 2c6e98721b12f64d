"""What a saved prompt may be to a run: its first value, a source, frozen."""

import re

import gin
import numpy as np
import pytest

from prompt_jax import ginfiles, train
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.session import Session
from prompt_jax.training.loop import Interruption
from tests import tiny

OTHER = 'f' * 16
FROM_FILE = 'prompts/from_file.gin'
FROM_FILES = 'prompts/from_files.gin'
PATH = 'encoder/prompt/prompt'


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch):
  """Runs leave alone where JAX keeps compiled programs."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')


@pytest.fixture(scope='module')
def shelf(tmp_path_factory):
  """Prompts of another base, and one that says of none."""
  folder = tmp_path_factory.mktemp('roles')
  tiny.write_files(folder / 'files', name='tiny_roles')
  rows = np.random.default_rng(59).normal(size=(3, 7)).astype(np.float32)
  saved.save(folder / 'other.npy', rows, {'base_digest': OTHER})
  np.save(folder / 'bare.npy', rows + 1)
  return folder


def configured(shelf, *files, method='prompt', **settings):
  """A run with more gin files, over the tiny base."""
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base(), **settings}
  flags = tiny.flags(shelf / 'files', shelf / 'run', method, **settings)
  named = [x.split('=', 1)[1] for x in flags if x.startswith('--gin_file')]
  bound = [x.removeprefix('--gin.') for x in flags if x.startswith('--gin.')]
  ginfiles.parse([*named, *files], bound)
  return gin.get_configurable(train.Run)()


def started(run):
  return Session(run, Interruption())


# {role: what configures a run that has the prompts in it}
ROLES = {
  'initial value': ((FROM_FILE,), lambda one, two: {'PROMPT_FILE': two}),
  'average': ((FROM_FILES,), lambda one, two: {'PROMPT_FILES': [one, two]}),
  'bank': (
    (),
    lambda one, two: {'method': 'attempt', 'SOURCE_PROMPTS': [one, two]},
  ),
}


@pytest.mark.parametrize('role', ROLES)
def test_a_prompt_of_another_base_is_refused_at_the_start(
  role, shelf, monkeypatch
):
  files, settings = ROLES[role]
  one, two = str(shelf / 'bare.npy'), str(shelf / 'other.npy')
  digest = tiny.trained().summary['base_digest']

  def compiled(*args):
    raise AssertionError('compiled first')

  monkeypatch.setattr(train, '_program', compiled)
  with pytest.raises(UserError) as caught:
    train.train(configured(shelf, *files, **settings(one, two)))
  said = str(caught.value)
  where = f'{two} was saved with base_digest {OTHER}, here it is {digest}'
  assert where in said and '--gin.ALLOW_OTHER_BASE=True' in said


@pytest.mark.parametrize('role', ROLES)
def test_it_is_taken_where_the_user_says_so(role, shelf):
  files, settings = ROLES[role]
  one, two = str(shelf / 'bare.npy'), str(shelf / 'other.npy')
  session = started(
    configured(shelf, *files, ALLOW_OTHER_BASE=True, **settings(one, two))
  )
  one, two = np.load(one), np.load(two)
  if role == 'bank':
    found = session.frozen['encoder/prompt/bank/prompts']
    np.testing.assert_array_equal(found, np.stack([one, two]))
  else:
    wanted = two if role == 'initial value' else (one + two) / 2
    np.testing.assert_allclose(session.trainable[PATH], wanted, rtol=1e-6)


def test_a_prompt_of_this_base_and_one_without_a_sidecar_are_taken(shelf):
  own = tiny.trained().prompt
  assert saved.sidecar_of(own)['base_digest'] != 'none'
  for file in own, shelf / 'bare.npy':
    session = started(configured(shelf, FROM_FILE, PROMPT_FILE=str(file)))
    np.testing.assert_array_equal(session.trainable[PATH], np.load(file))


def test_the_bank_of_a_source_that_reads_it_is_asked_too(shelf):
  own, two = str(tiny.trained().prompt), str(shelf / 'other.npy')
  run = configured(shelf, method='attempt', SOURCE_PROMPTS=[own, own])
  bank = started(run).frozen['encoder/prompt/bank/prompts']
  np.testing.assert_array_equal(bank, np.stack([np.load(own)] * 2))
  run = configured(
    shelf, FROM_FILE, method='attempt', SOURCE_PROMPTS=[own], PROMPT_FILE=two
  )
  with pytest.raises(UserError, match=re.escape(f'{two} was saved with')):
    started(run)


@pytest.mark.slow
def test_a_frozen_prompt_beside_inserts(shelf):
  own = tiny.trained().prompt
  run = configured(
    shelf,
    'runs/frozen_prompt.gin',
    method='lora',
    PROMPT_FILE=str(own),
    TRAIN_STEPS=2,
    EVAL_PERIOD=0,
  )
  session = started(run)
  assert all('_insert/' in path for path in session.trainable)
  assert session.trainable
  np.testing.assert_array_equal(session.frozen[PATH], np.load(own))
  assert str(session.frozen[PATH].dtype) == 'float32'
  assert train.train(run)['step'] == 2
  folder = run.folder / 'prompts' / '2'
  array, sidecar = saved.load(folder / 'tiny_roles.npy')
  np.testing.assert_array_equal(array, np.load(own))
  assert sidecar['base_digest'] == session.digest
  assert (run.folder / 'inserts' / '2' / 'inserts.npz').is_file()
  run = configured(
    shelf,
    'runs/frozen_prompt.gin',
    method='lora',
    PROMPT_FILE=str(shelf / 'other.npy'),
  )
  with pytest.raises(UserError, match='was saved with base_digest ffff'):
    started(run)


def test_a_prompt_of_another_place_is_refused(shelf):
  rows = np.ones((3, 7), np.float32)
  for key, value in (('stack', 'decoder'), ('depth', 3)):
    path = str(shelf / f'{key}.npy')
    saved.save(path, rows, {key: value})
    with pytest.raises(UserError, match=f'{key} {value}, here it is'):
      started(configured(shelf, FROM_FILE, PROMPT_FILE=path))
    allowed = {'PROMPT_FILE': path, 'ALLOW_OTHER_BASE': True}
    started(configured(shelf, FROM_FILE, **allowed))


def test_a_shared_part_starts_from_files(shelf):
  files = [str(shelf / 'bare.npy'), str(shelf / 'bare.npy')]
  run = configured(
    shelf, FROM_FILES, method='shared_and_task', PROMPT_FILES=files, NUM_TASKS=1
  )
  found = started(run).trainable['encoder/prompt/shared']
  np.testing.assert_allclose(found, np.load(files[0]), rtol=1e-6)
