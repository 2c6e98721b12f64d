"""The training step, and the programs that hold what is compiled."""

import functools

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.session import initial_state, starting
from prompt_jax.training import loss as losses
from prompt_jax.training.step import Program, forward, train_step
from tests import tiny

PROMPT = 'encoder/prompt/prompt'
FACTORS = [
  None,
  17.0,
  'NUM_REAL_TARGET_TOKENS',
  'NUM_TOTAL_TARGET_TOKENS',
  'AVERAGE_PER_SEQUENCE',
]


@functools.cache
def start(**settings):
  run = tiny.run(tiny.model(**settings))
  trainable, frozen, rates, _ = starting(run)
  return run, initial_state(run, trainable), frozen, rates


def make(run, rates, **settings):
  return train_step(run.model, run.optimizer, rates, run.schedule, **settings)


@functools.cache
def gradients(factor, microbatches):
  """The gradient and sums of a batch: an optimizer that returns it shows."""
  run, state, frozen, rates = start()
  kept = tiny.types.SimpleNamespace(
    update=lambda grads, state, params, learning_rate: (grads, state)
  )
  step = train_step(
    run.model,
    kept,
    rates,
    run.schedule,
    loss_normalizing_factor=factor,
    microbatches=microbatches,
  )
  new, sums = jax.jit(step)(state, frozen, tiny.batch(12))
  moved = jax.tree.map(jnp.subtract, new.trainable, state.trainable)
  return jax.device_get(moved), jax.device_get(sums)


@pytest.mark.parametrize('factor', FACTORS)
def test_microbatches_are_the_whole_batch(factor):
  whole, sums = gradients(factor, 1)
  parts, same = gradients(factor, 3)
  np.testing.assert_allclose(parts[PROMPT], whole[PROMPT], atol=1e-6)
  assert np.abs(whole[PROMPT]).max() > 1e-5
  assert sums.keys() == same.keys()
  for name in sums:
    np.testing.assert_allclose(same[name], sums[name], rtol=1e-6)


def test_sums_are_those_of_the_loss():
  run, state, frozen, _ = start()
  batch = tiny.batch(12)
  flat = params.merge(state.trainable, frozen)
  logits = forward(run.model, flat, batch)
  _, expected = losses.loss(logits, batch, z_loss=1e-4)
  _, sums = gradients(None, 3)
  for name in expected:
    np.testing.assert_allclose(sums[name], expected[name], rtol=1e-5)
  assert sums['tokens'] == (batch['decoder_target_tokens'] > 0).sum()
  assert sums['rate'] == 1.0 and sums['bad'].tolist() == [False]


def test_state_is_donated_and_the_base_lives_on():
  run, state, frozen, rates = start(length=2)
  program = Program('step', make(run, rates), donate_argnums=(0,))
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


def test_dropout_differs_from_step_to_step_and_repeats():
  run, state, frozen, rates = start(dropout_rate=0.5)
  step = jax.jit(make(run, rates))
  batch = tiny.batch()
  of = lambda state: float(step(state, frozen, batch)[1]['loss'])
  later = state.replace(step=state.step + 1)
  assert of(state) == of(state) != of(later)


def test_bad_leaf_is_the_one_whose_value_overflows():
  run, state, frozen, rates = start()
  huge = dict.fromkeys(rates, 1e39)  # beyond float32
  _, sums = jax.jit(make(run, huge))(state, frozen, tiny.batch())
  assert np.isfinite(sums['loss']) and sums['bad'].tolist() == [True]


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
