"""`Projected` as a source: what moves, and what it reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import saved
from prompt_jax.prompts.attached import read_by
from prompt_jax.training import state as states
from prompt_jax.training.step import train_step
from prompt_jax.transfer.projected import Projected
from prompt_jax.transfer.projector import Projector
from prompt_jax.transfer.uncorrected_adam import uncorrected_adam
from tests import tiny
from tests.transfer import small

_AT = 'encoder/prompt/projector/'


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sources')
  shape = (small.SOURCE_P, small.SOURCE_H)
  small.write(folder, ['a', 'b'], shape=shape)
  return [str(folder / f'{name}.npy') for name in 'ab']


def make(paths, **fields):
  fields = {'length': 3, 'hidden': 5, **fields}
  source = functools.partial(Projected, tuple(paths), **fields)
  return PromptEncoderDecoder(tiny.model(None).config, encoder_prompt=source)


def initial(model):
  """Its parameters at the start."""
  shapes = states.abstract(model)[0]
  return states.initial(model, jax.random.key(0), list(shapes))


def rows_of(model, flat, ids, rng=None, mutable=False):
  """The prompts of some task ids, float32[B,Q,H], and what else is asked."""
  variables = {'params': params.unflatten(flat)}
  run = functools.partial(model.apply, method='prompt_rows', mutable=mutable)
  rngs = None if rng is None else {'dropout': rng}
  made = jax.jit(run)(variables, ids, rngs=rngs)
  rows, state = made if mutable else (made, {})
  return (np.asarray(rows['encoder']), *jax.tree.leaves(state))


def after_a_step(model):
  """(parameters before, after) one step at a rate for the projector alone."""
  flat = initial(model)
  trainable = {p: x for p, x in flat.items() if p.startswith(_AT)}
  frozen = {p: x for p, x in flat.items() if p not in trainable}
  optimizer = uncorrected_adam()
  step = train_step(
    model,
    optimizer,
    dict.fromkeys(trainable, 0.01),
    lambda step: jnp.float32(1),
  )
  rng = jax.random.key_data(jax.random.key(0))
  state = states.State(jnp.int32(0), trainable, optimizer.init(trainable), rng)
  batch = tiny.batch() | {'task_ids': np.arange(8, dtype=np.int32) % 2}
  new, _ = jax.jit(step)(state, frozen, batch)
  return flat, new.trainable


def test_every_leaf_of_the_projector_moves(paths):
  """The released code for T5 targets cuts the graph: none would."""
  before, after = after_a_step(make(paths))
  assert len(after) == 6
  for path, leaf in after.items():
    assert not np.array_equal(leaf, before[path]), path


def test_a_graph_that_is_cut_would_be_caught(paths, monkeypatch):
  real = Projector.__call__
  monkeypatch.setattr(
    Projector, '__call__', lambda self, x: jax.lax.stop_gradient(real(self, x))
  )
  before, after = after_a_step(make(paths))
  assert all(np.array_equal(leaf, before[p]) for p, leaf in after.items())


def test_rows_are_of_their_task(paths):
  model = make(paths)
  flat = initial(model)
  np.testing.assert_array_equal(
    flat['encoder/prompt/bank/prompts'], [np.load(path) for path in paths]
  )
  ids = jnp.asarray([1, 0, 1])
  (rows,) = rows_of(model, flat, ids)
  assert rows.shape == (3, 3, small.H)
  np.testing.assert_array_equal(rows[0], rows[2])
  assert not np.allclose(rows[0], rows[1])
  (blind,) = rows_of(make(paths, blind=True), flat, ids)
  np.testing.assert_array_equal(blind[0], blind[1])


def test_one_source_is_that_of_all_tasks(paths):
  model = make(paths[:1])
  flat = initial(model)
  assert model.encoder_prompt(parent=None).num_tasks == 1
  (rows,) = rows_of(model, flat, jnp.asarray([1, 0]))
  np.testing.assert_array_equal(rows[0], rows[1])


def mixed(paths, tmp_path, **fields):
  """A model that stays near prompts of its own, and those prompts."""
  small.write(tmp_path, ['a', 'b'], seed=1, shape=(3, small.H))
  targets = [str(tmp_path / f'{name}.npy') for name in 'ab']
  return make(paths, targets=targets, **fields), targets


def test_the_distance_to_own_prompts_is_sown(paths, tmp_path):
  """A step adds what is sown to the loss, as it does for `Wayward`."""
  model, targets = mixed(paths, tmp_path, weight=3.0)
  flat = initial(model)
  made, sown = rows_of(model, flat, jnp.arange(2), mutable=['losses'])
  own = np.stack([np.load(path) for path in targets])
  np.testing.assert_array_equal(flat['encoder/prompt/own/prompts'], own)
  np.testing.assert_allclose(sown, 3 * np.mean((made - own) ** 2), rtol=1e-5)
  assert len(rows_of(make(paths), flat, jnp.arange(2), mutable=['losses'])) == 1


def test_dropout_of_the_sources_is_for_training_alone(paths):
  model, ids = make(paths, dropout=0.5), jnp.arange(2)
  flat = initial(model)
  (seen,) = rows_of(model, flat, ids)
  np.testing.assert_array_equal(seen, rows_of(make(paths), flat, ids)[0])
  drawn = [rows_of(model, flat, ids, jax.random.key(i))[0] for i in range(2)]
  assert not np.allclose(*drawn) and not np.allclose(drawn[0], seen)


def refused(paths, match, **fields):
  with pytest.raises(UserError, match=match):
    make(paths, **fields).encoder_prompt(parent=None).check(small.H)


def test_sources_of_other_shapes(paths, tmp_path):
  for name, shape in ('c', (4, 2)), ('d', (5, 3)):
    saved.save(tmp_path / f'{name}.npy', np.ones(shape, np.float32), {})
  long, wide = (str(tmp_path / f'{name}.npy') for name in 'cd')
  refused([*paths, long], r'c\.npy is a prompt \[4, 2\] .* equally long')
  refused([*paths, wide], r'd\.npy is a prompt \[5, 3\] .* equally wide')
  said = r'prompts are \[5, 2\].*expected \[7, 2\].* None reads the files'
  refused(paths, said, source_length=7)
  refused(paths, 'have 5 rows and PROMPT_LENGTH is 3.*the same', flat=False)
  refused([], r'paths=\(\); expected a list of saved prompts of another base')


def test_sources_of_other_bases(paths, tmp_path):
  about = {'base_digest': 'another'}
  saved.save(tmp_path / 'e.npy', np.ones((5, 2), np.float32), about)
  small.write(
    tmp_path, ['f'], shape=(small.SOURCE_P, small.SOURCE_H), base_digest='one'
  )
  each = [str(tmp_path / f'{name}.npy') for name in 'ef']
  refused(each, 'has base_digest one.*expected prompts of one base')


def test_targets_have_to_fit(paths, tmp_path):
  model, targets = mixed(paths, tmp_path)
  source = model.encoder_prompt(parent=None)
  source.check(small.H)
  assert read_by(source) == targets  # a run asks whether they are of its base
  refused(paths, '1 target prompts and 2 source', targets=targets[:1])
  refused(paths, r'a\.npy is a prompt \[5, 2\]', targets=paths)
