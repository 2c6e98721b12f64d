"""Checkpoints: what survives, what is passed over, what a full disk does."""

import json
import pathlib
import resource
import shutil

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.training.checkpoint import Checkpoints
from prompt_jax.training.loop import Best
from prompt_jax.training.state import State

PROMPT = 'encoder/prompt/prompt'


def state(step, size=7, fill=None):
  """A state whose every value tells the step it belongs to."""
  fill = step if fill is None else fill
  prompt = jnp.full((3, size), fill + 0.5, jnp.float32)
  slots = {PROMPT: {'m': prompt - 1, 'v': prompt + 1}}
  rng = jax.random.key_data(jax.random.key(step))
  return State(jnp.int32(step), {PROMPT: prompt}, slots, rng)


def manifest(step, best=None):
  return {'best': {'step': best}, 'data_position': step}


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert all(jax.tree.leaves(jax.tree.map(same, one, other)))


def saved(folder, steps, keep=3):
  checkpoints = Checkpoints(str(folder), keep)
  for step in steps:
    checkpoints.save(state(step), manifest(step))
  return checkpoints


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """A folder with the checkpoints 5 and 10; tests work on copies."""
  folder = tmp_path_factory.mktemp('pair') / 'checkpoints'
  saved(folder, [5, 10]).close()
  return folder


@pytest.fixture
def copy(pair, tmp_path):
  return pathlib.Path(shutil.copytree(pair, tmp_path / 'checkpoints'))


def test_nothing_there(tmp_path):
  checkpoints = Checkpoints(str(tmp_path / 'new'))
  assert checkpoints.steps() == [] and checkpoints.restore(state(0)) is None


def test_restores_the_newest_or_the_one_asked_for(pair):
  checkpoints = Checkpoints(str(pair), 3)
  assert checkpoints.steps() == [5, 10]
  for asked, step in (None, 10), (5, 5):
    found, about = checkpoints.restore(state(0), asked)
    equal(found, state(step))
    assert about == manifest(step) == checkpoints.manifest(step)


def test_a_step_that_is_there_is_not_written_again(copy):
  checkpoints = Checkpoints(str(copy), 3)
  checkpoints.save(state(10, fill=77), manifest(10))
  equal(checkpoints.restore(state(0))[0], state(10))


@pytest.mark.parametrize(
  ('keep', 'metrics', 'kept'),
  [
    (1, [50, 70, 60, 40], [2, 4]),
    (1, [50, 70, 70, 40], [2, 4]),  # of equals the earlier
    (1, [90, 70, 60, 40], [1, 4]),
    (1, [10, 20, 30, 40], [4]),
    (2, [50, 70, 60, 40], [2, 3, 4]),
    (2, [90, 10, 20, 30, 40], [1, 4, 5]),
    (1, [50, 70, None, 40], [2, 4]),  # saved by SIGTERM, not evaluated
    (1, [None, None, None], [3]),
    (2, [None, None, None], [2, 3]),
    (None, [50, 70, 60, 40], [1, 2, 3, 4]),
  ],
)
def test_newest_and_best_survive(tmp_path, keep, metrics, kept):
  checkpoints, best = Checkpoints(str(tmp_path), keep), Best()
  for step, value in enumerate(metrics, 1):
    if value is not None:
      best.update(step, value)
    if step == 3:  # another life of the run
      checkpoints.close()
      checkpoints = Checkpoints(str(tmp_path), keep)
    checkpoints.save(state(step), manifest(step, best.step))
  assert checkpoints.steps() == kept
  for step in kept:
    equal(checkpoints.restore(state(0), step)[0], state(step))


def files_of(folder):
  """The files of a checkpoint, relative, largest first among its kind."""
  found = sorted(p for p in folder.rglob('*') if p.is_file())
  return [p.relative_to(folder).as_posix() for p in found]


def passed_over(copy, caplog):
  """Restores; the newest must be passed over with a warning that says so."""
  checkpoints = Checkpoints(str(copy), 3)
  with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
    found, about = checkpoints.restore(state(0))
  equal(found, state(5))
  assert about == manifest(5)
  said = [r.getMessage() for r in caplog.records]
  warnings = [text for text in said if 'trying the one before it' in text]
  assert len(warnings) == 1
  assert f'checkpoint of step 10 in {copy} cannot be read (' in warnings[0]
  return checkpoints


def damaged(pair, folder):
  """Yields (name, copy of the pair with one file of step 10 damaged)."""
  for i, name in enumerate(files_of(pair / '10')):
    for how in 'cut', 'deleted':
      copy = pathlib.Path(shutil.copytree(pair, folder / f'{i}{how}'))
      file = copy / '10' / name
      if how == 'deleted':
        file.unlink()
      else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
      yield f'{name} {how}', copy


@pytest.mark.slow
def test_a_damaged_file_is_noticed_or_not_needed(pair, tmp_path, caplog):
  noticed = set()
  for name, copy in damaged(pair, tmp_path):
    caplog.clear()
    checkpoints = Checkpoints(str(copy), 3)
    with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
      found, about = checkpoints.restore(state(0))
    step = int(found.step)
    equal(found, state(step))  # nothing of the one in the other
    assert about == manifest(step), name
    said = [record.getMessage() for record in caplog.records]
    warned = [text for text in said if 'trying the one before it' in text]
    assert len(warned) == (step == 5), name
    noticed.update([name] * (step == 5))
    checkpoints.close()
  kinds = {name.split('/')[0] for name in noticed}
  assert {'manifest', 'state'} <= kinds
  for name in 'manifest/metadata', 'state/manifest.ocdbt':
    assert {f'{name} cut', f'{name} deleted'} <= noticed
  data = {name for name in noticed if '/d/' in name}
  assert any('cut' in n for n in data) and any('deleted' in n for n in data)


def test_a_damaged_one_makes_room_for_its_step(copy, caplog):
  (copy / '10' / 'manifest' / 'metadata').write_text('{"best"')
  checkpoints = passed_over(copy, caplog)
  checkpoints.save(state(7), manifest(7))  # not pushed out by the damaged 10
  assert checkpoints.steps() == [5, 7]
  checkpoints.save(state(10), manifest(10))
  again = Checkpoints(str(copy), 3)
  equal(again.restore(state(0))[0], state(10))


def test_all_damaged(copy):
  for step in 5, 10:
    (copy / str(step) / 'manifest' / 'metadata').unlink()
  with pytest.raises(UserError) as caught:
    Checkpoints(str(copy), 3).restore(state(0))
  text = str(caught.value)
  assert f'No checkpoint in {copy} can be read (step 10: ' in text
  assert '; step 5: ' in text and 'give another MODEL_DIR' in text
  with pytest.raises(UserError, match='step 10: '):
    Checkpoints(str(copy), 3).restore(state(0), 10)


def test_half_written_ones_are_not_taken_for_whole(copy):
  half = copy / '15.orbax-checkpoint-tmp'
  shutil.copytree(copy / '10' / 'state', half / 'state')
  checkpoints = Checkpoints(str(copy), 3)
  assert checkpoints.steps() == [5, 10]
  checkpoints.save(state(15), manifest(15))
  equal(checkpoints.restore(state(0))[0], state(15))


def test_disk_full(copy):
  """The limit on file sizes stands in for a full disk."""
  checkpoints = Checkpoints(str(copy), 3)
  large = state(15, size=40_000)
  noise = np.random.default_rng(3).random((3, 40_000), np.float32)
  large = large.replace(trainable={PROMPT: jnp.asarray(noise)})
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
  try:
    with pytest.raises(UserError) as caught:
      checkpoints.save(large, manifest(15))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  text = str(caught.value)
  assert f'checkpoint of step 15 could not be written to {copy}' in text
  assert 'Whole checkpoints there: [5, 10]; free some space' in text
  again = Checkpoints(str(copy), 3)  # the same command once there is room
  assert again.steps() == [5, 10]
  equal(again.restore(state(0))[0], state(10))
  again.save(large, manifest(15))
  equal(again.restore(state(0, size=40_000))[0], large)


def test_the_manifest_is_json(pair):
  text = (pair / '10' / 'manifest' / 'metadata').read_text()
  assert json.loads(text) == manifest(10)


@pytest.mark.parametrize('keep', [0, 1.5, 'all'])
def test_keep_has_to_be_positive(tmp_path, keep):
  with pytest.raises(UserError, match=f'KEEP is {keep!r}; expected a whole'):
    Checkpoints(str(tmp_path), keep)
