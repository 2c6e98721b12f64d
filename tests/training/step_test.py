"""The training step, and the programs that hold what is compiled."""

import functools
import types

from absl import logging
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.session import initial_state, starting
from prompt_jax.training import loss as losses
from prompt_jax.training.state import State, abstract, initial
from prompt_jax.training.step import Program, forward, train_step
from tests import tiny

ROWS = 12
FACTORS = [
  None,
  17.0,
  'NUM_REAL_TARGET_TOKENS',
  'NUM_TOTAL_TARGET_TOKENS',
  'AVERAGE_PER_SEQUENCE',
]


class Bag(nn.Module):
  """Logits from the mean input and the last target: quick to compile."""

  config: types.SimpleNamespace

  @nn.compact
  def __call__(
    self, inputs, shifted, targets, task_ids=None, deterministic=True
  ):
    embed = nn.Embed(263, 7, name='embed')
    x = embed(inputs).mean(axis=1, keepdims=True) + embed(shifted)
    rate = self.config.dropout_rate
    x = nn.Dropout(rate, deterministic=deterministic)(jnp.tanh(x))
    return nn.Dense(263, use_bias=False, name='logits')(x)


def optimizer_of(update):
  """An optimizer whose update is that of (gradients, state) alone."""
  return types.SimpleNamespace(
    update=lambda g, state, *_, **__: update(g, state)
  )


@functools.cache
def bag(dropout_rate=0.0):
  """(model, state, frozen): the logits train, the embedding is frozen."""
  model = Bag(types.SimpleNamespace(dropout_rate=dropout_rate))
  tokens = jnp.zeros((1, 1), jnp.int32)
  flat = params.flatten(model.init(jax.random.key(1), *[tokens] * 3)['params'])
  trainable = {'logits/kernel': flat.pop('logits/kernel')}
  rng = jax.random.key_data(jax.random.key(0))
  return model, State(jnp.zeros((), jnp.int32), trainable, trainable, rng), flat


def stepped(update, model=None, **settings):
  """One step of the bag: (state, sums) on the host."""
  model, state, frozen = bag()
  rates = dict.fromkeys(state.trainable, 1.0)
  step = train_step(
    model, optimizer_of(update), rates, jnp.ones_like, **settings
  )
  return jax.device_get(jax.jit(step)(state, frozen, tiny.batch(ROWS)))


@functools.cache
def gradients(factor, microbatches):
  """The gradient of a batch, kept in the optimizer's state, and the sums."""
  new, sums = stepped(
    lambda g, _: (g, g),
    loss_normalizing_factor=factor,
    microbatches=microbatches,
  )
  return new.opt_state['logits/kernel'], sums


@pytest.mark.parametrize('factor', FACTORS)
def test_microbatches_are_the_whole_batch(factor):
  whole, sums = gradients(factor, 1)
  parts, same = gradients(factor, 3)
  np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)
  assert np.abs(whole).max() > 1e-3
  assert sums.keys() == same.keys()
  for name in sums:
    np.testing.assert_allclose(same[name], sums[name], rtol=1e-6)


class Kept(Bag):
  """A bag that sows the size of its kernel as a further loss."""

  def __call__(self, *args, **options):
    logits = super().__call__(*args, **options)
    kernel = self.variables['params']['logits']['kernel']
    self.sow('losses', 'size', 1.5 * jnp.sum(kernel**2))
    return logits


@pytest.mark.parametrize('microbatches', [1, 3])
def test_sown_losses_are_added_once_a_batch(microbatches):
  plain, state, frozen = bag()
  rates = dict.fromkeys(state.trainable, 1.0)
  keep = optimizer_of(lambda g, _: (g, g))

  def gradient(model):
    step = train_step(
      model, keep, rates, jnp.ones_like, microbatches=microbatches
    )
    new, sums = jax.jit(step)(state, frozen, tiny.batch(ROWS))
    return new.opt_state['logits/kernel'], sums['loss']

  (without, loss), (sown, same) = gradient(plain), gradient(Kept(plain.config))
  kernel = state.trainable['logits/kernel']
  np.testing.assert_allclose(sown - without, 3 * kernel, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(same, loss, rtol=1e-6)


def test_another_loss_may_be_chosen():
  def twice(call, batch, **options):
    total, sums = losses.teacher_forced(call, batch, **options)
    return 2 * total, sums

  wanted, _ = gradients(None, 1)
  new, _ = stepped(lambda g, _: (g, g), loss=twice)
  got = new.opt_state['logits/kernel']
  np.testing.assert_allclose(got, 2 * wanted, rtol=1e-5, atol=1e-6)


def test_sums_are_those_of_the_loss():
  model, state, frozen = bag()
  batch = tiny.batch(ROWS)
  logits = forward(model, params.merge(state.trainable, frozen), batch)
  _, expected = losses.loss(logits, batch, z_loss=1e-4)
  _, sums = gradients(None, 3)
  for name in expected:
    np.testing.assert_allclose(sums[name], expected[name], rtol=1e-5)
  assert sums['tokens'] == (batch['decoder_target_tokens'] > 0).sum()
  assert sums['rate'] == 1.0 and sums['bad'].tolist() == [False]


def test_bad_leaf_is_also_one_whose_new_value_overflows():
  endless = lambda g, state: (jax.tree.map(lambda x: x + jnp.inf, g), state)
  _, sums = stepped(endless)
  assert np.isfinite(sums['loss']) and sums['bad'].tolist() == [True]


def test_dropout_differs_from_step_to_step_and_repeats():
  model, state, frozen = bag(dropout_rate=0.5)
  still = optimizer_of(lambda g, state: (g, state))
  rates = dict.fromkeys(state.trainable, 1.0)
  step = jax.jit(train_step(model, still, rates, jnp.ones_like))
  of = lambda state: float(step(state, frozen, tiny.batch(ROWS))[1]['loss'])
  later = state.replace(step=state.step + 1)
  assert of(state) == of(state) != of(later)


def test_state_is_donated_and_the_base_lives_on():
  run = tiny.run(tiny.model())
  trainable, frozen, rates, _ = starting(run)
  state = initial_state(run, trainable)
  step = train_step(run.model, run.optimizer, rates, run.schedule)
  program = Program('step', step, donate_argnums=(0,))
  before = jax.device_get(frozen)
  new, _ = program(state, frozen, tiny.batch())
  assert all(x.is_deleted() for x in jax.tree.leaves(state))
  assert not any(x.is_deleted() for x in frozen.values())
  assert int(new.step) == 1
  for path, leaf in frozen.items():
    np.testing.assert_array_equal(leaf, before[path], err_msg=path)
  cost = program.cost()
  assert cost['flops'] > 0 and cost['alias_bytes'] > 0
  whole = sum(cost[f'{n}_bytes'] for n in ('argument', 'output', 'temp'))
  assert cost['peak_bytes'] == whole - cost['alias_bytes']


def test_a_row_costs_the_same_in_every_bucket():
  model = tiny.model()
  shapes, _ = abstract(model)
  flat = initial(model, jax.random.key(3), list(shapes))
  rows = tiny.batch(inputs=9)
  each = []
  for length in 9, 13, 24:
    tokens = np.zeros((8, length), np.int32)
    tokens[:, :9] = rows['encoder_input_tokens']
    logits = forward(model, flat, {**rows, 'encoder_input_tokens': tokens})
    tokens_, _ = losses.token_losses(logits, rows['decoder_target_tokens'])
    each.append((tokens_ * rows['decoder_loss_weights']).sum(axis=1))
  for other in each[1:]:
    np.testing.assert_allclose(other, each[0], rtol=1e-6)


def test_program_compiles_once_a_shape_and_says_what_changed(caplog):
  program = Program('the sum', lambda x, y: x['a'] + y)
  x = {'a': np.zeros((2, 3), np.float32)}
  with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
    program(x, np.float32(1))
    np.testing.assert_array_equal(program(x, np.float32(2)), x['a'] + 2)
    assert program.compilations == 1 and not caplog.records
    program({'a': np.zeros((5, 3), np.float32)}, np.float32(1))
    program({'b': x['a'], 'a': x['a']}, np.float32(1))
  assert program.compilations == 3
  said = [record.getMessage() for record in caplog.records]
  start = 'compiling the sum again, for other shapes: '
  assert said == [
    start + 'float32[2, 3] -> float32[5, 3]',
    start + 'another structure of arguments',
  ]
