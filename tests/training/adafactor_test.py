"""Adafactor's formulas in NumPy, its table of scales, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.training import optim
from prompt_jax.training.adafactor import adafactor, layout

PROMPT, KERNEL = 'encoder/prompt/prompt', 'encoder/layers_0/mlp/wi/kernel'


def _normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _rms(array):
  return np.sqrt(np.mean(np.square(array)))


def _step(optimizer, params, grads, rate=0.3):
  rates = dict.fromkeys(params, jnp.float32(rate))
  update = jax.jit(optimizer.update)
  state = optimizer.init(params)
  return update(grads, state, params, learning_rate=rates)


def test_equals_the_formulas_unfactored():
  param, grads = _normal(0, 5, 11), [_normal(1, 5, 11), _normal(2, 5, 11)]
  optimizer = adafactor(
    decay_rate=0.7, weight_decay_rate=0.01, clipping_threshold=0.5
  )
  params = {PROMPT: jnp.asarray(param)}
  state, v = optimizer.init(params), np.zeros_like(param)
  for step, grad in enumerate(grads):
    updates, state = optimizer.update(
      {PROMPT: grad}, state, params, learning_rate={PROMPT: jnp.float32(0.2)}
    )
    params = optim.apply_updates(params, updates)
    decay = 1 - (step + 1.0) ** -0.7
    v = decay * v + (1 - decay) * grad**2
    direction = grad / np.sqrt(v)
    direction /= max(1, _rms(direction) / 0.5)
    param = (1 - 0.01) * param - 0.2 * _rms(param) * direction
    np.testing.assert_allclose(params[PROMPT], param, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state.v[PROMPT], v, rtol=1e-5)


def test_equals_the_formulas_factored():
  grad = _normal(1, 5, 11)
  params = {KERNEL: jnp.asarray(_normal(0, 5, 11))}
  optimizer = adafactor(
    min_dim_size_to_factor=5,
    clipping_threshold=None,
    multiply_by_parameter_scale=False,
  )
  updates, state = _step(optimizer, params, {KERNEL: grad})
  row, column = np.mean(grad**2, axis=1), np.mean(grad**2, axis=0)
  v = np.outer(row, column) / row.mean()  # the first decay is 0
  np.testing.assert_allclose(updates[KERNEL], -0.3 * grad / np.sqrt(v), 1e-5)
  np.testing.assert_allclose(state.v_row[KERNEL], row, rtol=1e-5)
  np.testing.assert_allclose(state.v_col[KERNEL], column, rtol=1e-5)
  assert state.v == {} and state.m == {}


def test_stacked_layers_act_as_separate_matrices():
  params, grads = _normal(0, 3, 7, 11), _normal(1, 3, 7, 11)
  params *= np.array([0.1, 1, 10], np.float32).reshape(3, 1, 1)
  stacked = adafactor(logical_axes={'p': ('layers', 'embed', 'mlp')})
  alone = adafactor(min_dim_size_to_factor=7)
  got, _ = _step(stacked, {'p': params}, {'p': grads})
  for layer in range(3):
    want, _ = _step(alone, {'p': params[layer]}, {'p': grads[layer]})
    np.testing.assert_allclose(got['p'][layer], want['p'], rtol=2e-5)


def test_a_zero_row_and_column_give_finite_updates():
  grad = _normal(1, 5, 11) * np.float32(1e5)
  grad[2], grad[:, 3] = 0, 0
  optimizer = adafactor(min_dim_size_to_factor=5, first_step=1_100_000)
  updates, _ = _step(optimizer, {'p': _normal(0, 5, 11)}, {'p': grad})
  assert np.all(np.isfinite(updates['p']))
  np.testing.assert_array_equal(updates['p'][2], 0.0)


def test_the_first_pattern_found_decides_the_scale():
  params = {PROMPT: 3 * _normal(0, 5, 11), KERNEL: 3 * _normal(1, 7, 13)}
  grads = {path: _normal(2, *leaf.shape) for path, leaf in params.items()}
  table = (('prompt', False), ('enc', True), ('.*', False))
  got, _ = _step(adafactor(multiply_by_parameter_scale=table), params, grads)
  np.testing.assert_allclose(_rms(got[PROMPT]), 0.3, rtol=1e-5)
  np.testing.assert_allclose(
    _rms(got[KERNEL]), 0.3 * _rms(params[KERNEL]), rtol=1e-5
  )


def test_weight_decay_is_not_times_the_rate_unless_by_its_exponent():
  params, zero = {'p': _normal(0, 7)}, {'p': np.zeros(7, np.float32)}
  for options, share in (
    ({'weight_decay_rate': 0.1}, 0.1),
    ({'weight_decay_rate': 0.1, 'weight_decay_rate_lr_exponent': 2.0}, 0.009),
    ({'weight_decay_rate_lr_exponent': 2.0}, 0.09),
    ({'weight_decay_rate': 0.0, 'weight_decay_rate_lr_exponent': 2.0}, 0.0),
  ):
    got, _ = _step(adafactor(**options), params, zero)
    np.testing.assert_allclose(got['p'], -share * params['p'], rtol=1e-5)


def test_the_counter_starts_where_told():
  optimizer = adafactor(first_step=1_100_000)
  params = {'p': _normal(0, 7)}
  assert optimizer.init(params).count == 1_100_000
  _, state = _step(optimizer, params, params)
  assert state.count == 1_100_001


def test_an_unfactored_stack_shares_one_rms():
  params, grads = {'p': _normal(0, 3, 5, 7)}, {'p': _normal(1, 3, 5, 7)}
  _, state = _step(adafactor(factored=False), params, grads)
  assert state.v['p'].shape == (3, 5, 7) and state.v_row == {}


def test_axes_told_later_are_used_and_asked_for_once_they_are_needed():
  asked = []

  def axes():
    asked.append(True)
    return {'p': ('layers', 'embed', 'mlp')}

  told = optim.informed(adafactor(), axes)
  assert not asked
  state = told.init({'p': jnp.zeros((3, 5, 7))})
  assert asked and state.v_row['p'].shape == (3, 5) and state.v == {}
  assert state.v_col['p'].shape == (3, 7)
  nameless = {'p': ('tasks', None, 'prompt_embed')}
  state = optim.informed(adafactor(), nameless).init(
    {'p': jnp.zeros((3, 5, 7))}
  )
  assert state.v['p'].shape == (3, 5, 7) and state.v_row == {}


def test_axes_given_by_hand_are_kept():
  given = adafactor(logical_axes={'p': ('tasks', 'prompt', 'prompt_embed')})
  told = optim.informed(given, {'p': ('layers', 'embed', 'mlp')})
  assert told.init({'p': jnp.zeros((3, 5, 7))}).v_row == {}


def test_an_optimizer_that_cannot_be_told_stays_as_it_is():
  plain = optim.adamw()
  assert optim.informed(plain, {}) is plain


def _init(path, shape, **options):
  return adafactor(**options).init({path: jnp.zeros(shape)})


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: _init('p', (2, 3, 5)), 'p of shape (2, 3, 5) without logical'),
    (
      lambda: _init('p', (2, 3), logical_axes={'p': ('embed',)}),
      "1 logical axes ('embed',) for p of shape (2, 3)",
    ),
    (
      lambda: _init('p', (2, 3), logical_axes={'p': ('embd', 'mlp')}),
      "the logical axis 'embd' of p, which has no rule; expected a key of "
      'logical_factor_rules. Nearest: embed',
    ),
    (
      lambda: layout('p', (2, 3, 5), ('embed', 'mlp', 'prompt')),
      'expected no NONE beside ROW and COLUMN',
    ),
    (
      lambda: _init('a/b', (2,), logical_axes={'a/c': ('embed',)}),
      'a/b, which logical_axes lacks; expected the axis names of every '
      'parameter that trains. Nearest: a/c',
    ),
    (
      lambda: _init('a', (2,), multiply_by_parameter_scale=(('b', True),)),
      "a, in which no pattern of multiply_by_parameter_scale is found ('b')",
    ),
    (
      lambda: adafactor(clipping_threshold=0),
      'clipping_threshold=0; expected a number above 0, or None',
    ),
    (lambda: adafactor(beta1=1.0), 'adafactor got beta1=1.0'),
    (
      lambda: adafactor(dtype_momentum='float16'),
      "dtype_momentum='float16'; expected 'float32' or 'bfloat16'",
    ),
    (
      lambda: adafactor(step_offset=7),
      'first_step=0 and step_offset=7; expected a counter that starts at',
    ),
    (
      lambda: _init('p', (2, 3), logical_factor_rules={'embed': 'ROW'}),
      'logical_factor_rules without logical_axes',
    ),
    (
      lambda: adafactor(
        logical_axes={}, logical_factor_rules={'embed': 'rows'}
      ),
      "maps 'embed' to 'rows'; expected one of ROW, COLUMN, BATCH, NONE",
    ),
  ],
)
def test_errors(make, message):
  with pytest.raises(UserError) as error:
    make()
  assert message in str(error.value)


@pytest.mark.parametrize('least', [5, 128])
def test_tasks_of_a_table_act_as_if_each_were_alone(least):
  options = dict(
    min_dim_size_to_factor=least,
    multiply_by_parameter_scale=True,
    weight_decay_rate=1e-3,
  )
  names = ('tasks', 'prompt', 'prompt_embed')
  table = adafactor(logical_axes={PROMPT: names}, **options)
  alone = adafactor(**options)
  # of sizes so unlike that a clip over the table would be felt by all
  sizes = np.array([0.1, 1, 30], np.float32).reshape(3, 1, 1)
  params, own = _normal(0, 3, 7, 11) * sizes, {}
  for seed in range(1, 5):
    grads = _normal(seed, 3, 7, 11) * sizes**seed
    state = own.get('table') or table.init({PROMPT: params})
    updates, own['table'] = table.update(
      {PROMPT: grads}, state, {PROMPT: params}, learning_rate={PROMPT: 0.3}
    )
    for task in range(3):
      one = {PROMPT: params[task]}
      state = own.get(task) or alone.init(one)
      want, own[task] = alone.update(
        {PROMPT: grads[task]}, state, one, learning_rate={PROMPT: 0.3}
      )
      np.testing.assert_allclose(
        updates[PROMPT][task], want[PROMPT], rtol=1e-6, atol=1e-6
      )
    params = params + np.asarray(updates[PROMPT])
  factored = own['table'].v_row
  assert (factored[PROMPT].shape == (3, 7)) if least == 5 else factored == {}


def test_a_number_a_task_is_not_factored():
  table = adafactor(logical_axes={'p': ('tasks', 'prompt')})
  assert table.init({'p': jnp.zeros((131, 137))}).v_row == {}
