"""Meshes: the same losses, the layout asked for, checkpoints across them."""

import functools
import itertools
import types

import jax
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from prompt_jax import train
from prompt_jax.errors import UserError
from prompt_jax.session import initial_state, starting
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from prompt_jax.training.checkpoint import Checkpoints
from tests import tiny

MESHES = {'data 8': 1, 'data 4, model 2': 2, 'model 8': 8}
SIZES = {
  # all that a rule shards divides by eight, and nothing else is alike
  'divides': dict(vocab_size=264, d_ff=16, num_heads=8, d_kv=3),
  # neither heads (as in T5 1.1 small), MLP nor vocabulary divide by eight
  'does not': dict(vocab_size=263, d_ff=22, num_heads=6, d_kv=3),
}
PROMPT = 'encoder/prompt/prompt'
WI = 'encoder/layers_0/mlp/wi_0/kernel'
QUERY = 'encoder/layers_0/attention/query/kernel'
BIAS = 'encoder/relpos_bias/rel_embedding'
# a matrix of the base trains too: its gradient is sharded
TABLE = [('encoder/prompt/.*', 0.3), (WI, 1e-3)]
STEPS = 5

pytestmark = pytest.mark.skipif(
  jax.device_count() < 8, reason='needs the eight devices of conftest.py'
)


@functools.cache
def origin(kind):
  """(trainable, frozen, rates) on one device."""
  run = tiny.run(tiny.model(**SIZES[kind]), table=TABLE)
  return starting(run)[:3]


def trainer(kind, mesh):
  """(program, state, frozen) of a mesh, from the values of `origin`."""
  run = tiny.run(tiny.model(**SIZES[kind]), mesh, table=TABLE)
  shapes, axes = states.abstract(run.model)
  places = sharding.shardings(mesh, axes, shapes)
  trainable, frozen, rates = origin(kind)
  # copies: the state is donated, and a device may share what it is given
  put = lambda flat: {
    path: jax.device_put(np.array(x), places[path]) for path, x in flat.items()
  }
  state = initial_state(run, put(trainable))
  session = types.SimpleNamespace(run=run, rates=rates)
  return train._program(session, state), state, put(frozen)


def go_on(program, state, frozen, mesh, kind, steps):
  """Steps on batches that depend on the number alone: (state, losses)."""
  losses = []
  for number in steps:
    rows = tiny.batch(16, number, SIZES[kind]['vocab_size'])
    state, sums = program(state, frozen, sharding.put_batch(mesh, rows))
    losses.append(float(sums['loss']))
    assert not np.any(sums['bad'])
  return state, losses


@functools.cache
def alone(kind):
  """(program, frozen, mesh, losses) of one device, one more than STEPS."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  program, state, frozen = trainer(kind, mesh)
  _, losses = go_on(program, state, frozen, mesh, kind, range(STEPS + 1))
  return program, frozen, mesh, losses


def parts(array):
  return array.sharding.spec, array.addressable_shards[0].data.shape


@pytest.mark.slow
@pytest.mark.parametrize('kind', SIZES)
@pytest.mark.parametrize('name', MESHES)
def test_losses_and_layout_do_not_depend_on_the_mesh(kind, name, tmp_path):
  mesh = sharding.make_mesh(MESHES[name])
  program, state, frozen = trainer(kind, mesh)
  state, losses = go_on(program, state, frozen, mesh, kind, range(STEPS))
  expected = alone(kind)[3]
  np.testing.assert_allclose(losses, expected[:STEPS], rtol=1e-5)
  assert len(set(losses)) == STEPS and program.compilations == 1

  sizes, model = SIZES[kind], mesh.shape['model']
  axis = 'model' if sizes['d_ff'] % model == 0 else None
  width = sizes['d_ff'] // (model if axis else 1)
  assert parts(state.trainable[WI]) == (PartitionSpec(None, axis), (7, width))
  joined = sizes['num_heads'] * sizes['d_kv']
  axis = 'model' if joined % model == 0 else None
  width = joined // (model if axis else 1)
  assert parts(frozen[QUERY]) == (PartitionSpec(None, axis), (7, width))
  for array in state.step, state.rng, state.trainable[PROMPT]:
    assert array.sharding.is_fully_replicated
  for slot in jax.tree.leaves(state.opt_state):  # lies with its parameter
    beside = state.trainable[WI]
    if slot.shape == beside.shape:
      assert slot.sharding.is_equivalent_to(beside.sharding, 2)
    else:
      assert slot.sharding.is_fully_replicated
  for leaf in jax.tree.leaves(state):
    assert leaf.sharding.device_set == set(mesh.devices.flat)
  if (kind, name) == ('divides', 'data 4, model 2'):
    ahead = lambda: go_on(program, state, frozen, mesh, kind, [STEPS])[1]
    _restores_on_fewer_devices(state, ahead, tmp_path)


def _restores_on_fewer_devices(state, ahead, folder):
  """A checkpoint of eight devices goes on with one and with two."""
  checkpoints = Checkpoints(str(folder))
  checkpoints.save(state, {})
  state = jax.device_get(state)
  expected = ahead()  # the next step where it was saved
  one, base, mesh, _ = alone('divides')
  two = sharding.make_mesh(2, jax.devices()[:2])
  for program, like, frozen, here in (
    (one, trainer('divides', mesh)[1], base, mesh),
    (*trainer('divides', two), two),
  ):
    found, _ = checkpoints.restore(like)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    for leaf, asked in zip(
      jax.tree.leaves(found), jax.tree.leaves(like), strict=True
    ):
      assert leaf.sharding.is_equivalent_to(asked.sharding, leaf.ndim)
    _, losses = go_on(program, found, frozen, here, 'divides', [STEPS])
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.slow
def test_initial_values_do_not_depend_on_the_mesh():
  model = tiny.model(**SIZES['divides'])
  shapes, axes = states.abstract(model)
  trainable, frozen, _ = origin('divides')
  mesh = sharding.make_mesh(2)
  places = sharding.shardings(mesh, axes, shapes)
  flat = states.initial(model, jax.random.key(0), list(shapes), places)
  for path, leaf in {**trainable, **frozen}.items():
    np.testing.assert_array_equal(flat[path], leaf, err_msg=path)
    assert flat[path].sharding == places[path]


def test_rules_cover_every_axis_of_the_model():
  model = tiny.model()
  shapes, axes = states.abstract(model)
  mesh = sharding.make_mesh(8)
  for path, names in axes.items():
    sharding.spec(mesh, names, shapes[path].shape)
  used = set(itertools.chain.from_iterable(axes.values()))
  assert used <= dict(sharding.RULES).keys()


def test_first_free_axis_wins_and_what_does_not_divide_stays_whole():
  mesh = sharding.make_mesh(8)
  spec = lambda names, *shape: sharding.spec(mesh, names, shape)
  assert spec(('embed', 'mlp'), 7, 16) == PartitionSpec(None, 'model')
  assert spec(('vocab', 'mlp'), 16, 16) == PartitionSpec('model', None)
  assert spec(('vocab', 'mlp'), 15, 16) == PartitionSpec(None, 'model')
  assert spec((None,), 16) == PartitionSpec(None)
  with pytest.raises(ValueError, match="no sharding rule for .* 'colour'"):
    spec(('colour',), 8)


def test_rows_lie_on_the_data_axis():
  mesh = sharding.make_mesh(2)
  rows = np.arange(24, dtype=np.int32).reshape(8, 3)
  put = sharding.put_batch(mesh, {'rows': rows})['rows']
  assert put.sharding == sharding.by_rows(mesh)
  assert put.addressable_shards[0].data.shape == (2, 3)
  np.testing.assert_array_equal(sharding.gather(put), rows)


@pytest.mark.parametrize('model_parallel', [0, 3, 16])
def test_devices_that_do_not_divide(model_parallel):
  with pytest.raises(UserError, match='expected a divisor of the 8 devices'):
    sharding.make_mesh(model_parallel)


@pytest.mark.parametrize(
  ('size', 'microbatches', 'good'), [(12, 1, 16), (8, 2, 16), (0, 1, 8)]
)
def test_batches_that_do_not_divide(size, microbatches, good):
  mesh = sharding.make_mesh()
  with pytest.raises(UserError) as caught:
    sharding.check_batch(mesh, size, microbatches)
  text = str(caught.value)
  assert f'BATCH_SIZE is {size}; expected a multiple of' in text
  assert f'Use --gin.BATCH_SIZE={good}' in text
  sharding.check_batch(mesh, good, microbatches)
