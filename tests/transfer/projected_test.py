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
  shape = (small.SOURCE_P, small.SOURCE_H)
  source = functools.partial(Projected, tuple(paths), *shape, **fields)
  return PromptEncoderDecoder(tiny.model(None).config, encoder_prompt=source)


def after_a_step(model):
  """(parameters before, after) one step at a rate for the projector alone."""
  shapes = states.abstract(model)[0]
  flat = states.initial(model, jax.random.key(0), list(shapes))
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
  flat = states.initial(
    model, jax.random.key(0), list(states.abstract(model)[0])
  )
  np.testing.assert_array_equal(
    flat['encoder/prompt/bank/prompts'], [np.load(path) for path in paths]
  )
  ids = jnp.asarray([1, 0, 1])
  run = lambda model: np.asarray(
    model.apply({'params': params.unflatten(flat)}, ids, method='prompt_rows')[
      'encoder'
    ]
  )
  rows = run(model)
  assert rows.shape == (3, 3, small.H)
  np.testing.assert_array_equal(rows[0], rows[2])
  assert not np.allclose(rows[0], rows[1])
  blind = run(make(paths, blind=True))
  np.testing.assert_array_equal(blind[0], blind[1])


def test_sources_of_another_shape(paths, tmp_path):
  saved.save(tmp_path / 'c.npy', np.ones((4, 2), np.float32), {})
  model = make([*paths, str(tmp_path / 'c.npy')])
  with pytest.raises(UserError, match=r'c\.npy is a prompt \[4, 2\]'):
    model.encoder_prompt(parent=None).check(small.H)
