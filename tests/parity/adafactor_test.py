"""Adafactor against trajectories of T5X's, to the tolerances stored there."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.training import optim
from prompt_jax.training.adafactor import adafactor, decay_at, layout
from tests.shared import fixtures

PARAMS = {'rtol': 1e-5, 'atol': 2e-6}
STATE_RTOL = 1e-5
MOMENTUM_BF16_RTOL = 1e-2
BF16_ATOL, BF16_EQUAL = 2e-2, 0.95
PROMPT = {'rtol': 2e-5, 'atol': 2e-5}


def _read():
  folder = fixtures('adafactor')
  table = json.loads((folder / 'cases.json').read_text())
  return table, np.load(folder / 'adafactor.npz')


def _cases():
  """The cases of the set; [] where there is none."""
  try:
    return sorted(_read()[0]['cases'])
  except pytest.skip.Exception:
    return []


def _starts():
  """(size, first step) of the trajectories of prompts."""
  try:
    file = fixtures('prompt_tuning') / 'adafactor_prompt.npz'
  except pytest.skip.Exception:
    return []
  found = [
    re.fullmatch(r'(\w+)_step(\d+)_params', k) for k in np.load(file).files
  ]
  return [(match[1], int(match[2])) for match in found if match]


def _run(optimizer, params, grads, rates):
  """Parameters after each step, and the last state."""
  step = jax.jit(
    lambda grads, state, params, rate: optimizer.update(
      grads, state, params, learning_rate=dict.fromkeys(params, rate)
    )
  )
  state, history = optimizer.init(params), []
  for now, rate in zip(grads, rates, strict=True):
    updates, state = step(now, state, params, jnp.float32(rate))
    params = optim.apply_updates(params, updates)
    history.append(params)
  return history, state


def _compare_state(state, stored, prefix, momentum):
  for field in ('v', 'v_row', 'v_col', 'm'):
    key = f'{prefix}/{field}'
    if key not in stored.files:
      continue
    got = getattr(state, field)[prefix.split('/')[1]]
    bf16 = field == 'm' and momentum == 'bfloat16'
    assert got.dtype == (jnp.bfloat16 if bf16 else jnp.float32)
    np.testing.assert_allclose(
      got.astype(jnp.float32),
      stored[key],
      rtol=MOMENTUM_BF16_RTOL if bf16 else STATE_RTOL,
      err_msg=key,
    )


@pytest.mark.parametrize('case', _cases())
def test_trajectory(case):
  table, stored = _read()
  setting = table['cases'][case]
  names, dtype = setting['params'], jnp.dtype(setting['param_dtype'])
  optimizer = adafactor(
    **setting['hyper_params'],
    first_step=setting['first_step'],
    logical_axes=setting['logical_axes'],
  )
  rates = stored[f'{case}/lr']
  params = {name: jnp.asarray(stored[f'init/{name}'], dtype) for name in names}
  grads = [
    {name: stored[f'grads/{name}'][i].astype(np.float32) for name in names}
    for i in range(len(rates))
  ]
  history, state = _run(optimizer, params, grads, rates)
  assert state.count == setting['last_step']
  for name in names:
    steps = setting['saved_after_steps'][name]
    got = np.stack([history[k - 1][name].astype(jnp.float32) for k in steps])
    want = stored[f'{case}/{name}/params']
    if dtype == jnp.bfloat16:
      assert np.mean(got == want) >= BF16_EQUAL
      np.testing.assert_allclose(got, want, rtol=0, atol=BF16_ATOL)
    else:
      np.testing.assert_allclose(got, want, **PARAMS, err_msg=name)
    momentum = setting['hyper_params'].get('dtype_momentum')
    _compare_state(state, stored, f'{case}/{name}', momentum)


def test_a_late_counter_takes_steps_of_the_rate_itself():
  table, stored = _read()
  case = 'prompt_tuning_late'
  rate = float(stored[f'{case}/lr'][0])
  first = table['cases'][case]['first_step']
  grads = stored['grads/prompt'].astype(np.float32)
  params = {'prompt': jnp.asarray(stored['init/prompt'])}
  optimizer = adafactor(multiply_by_parameter_scale=False, first_step=first)
  history, _ = _run(
    optimizer, params, [{'prompt': g} for g in grads], [rate] * len(grads)
  )
  track = np.stack([params['prompt']] + [now['prompt'] for now in history])
  size = np.sqrt(np.mean(np.square(np.diff(track, axis=0)), axis=(1, 2)))
  moved = np.any(grads != 0, axis=(1, 2))
  np.testing.assert_allclose(size[moved] / rate, 1.0, rtol=3e-5)
  np.testing.assert_array_equal(size[~moved], 0.0)


@pytest.mark.parametrize('rate', [0.8, 0.7])
def test_decay(rate):
  _, stored = _read()
  got = jax.jit(decay_at, static_argnums=1)(stored['decay/step'], rate)
  np.testing.assert_allclose(got, stored[f'decay/rate_{rate}'], rtol=1e-6)


def test_factored_by_heuristic():
  table, _ = _read()
  for row in table['factored_by_heuristic']:
    _compare_shapes(row, adafactor())


def test_factored_by_rules():
  table, _ = _read()
  for row in table['factored_by_rules']:
    axes = tuple(row['axes'])
    _compare_shapes(row, adafactor(logical_axes={'p': axes}))
    got = layout('p', row['shape'], axes)
    assert list(got.averaged) == row['averaging_dims'], row


def _compare_shapes(row, optimizer):
  abstract = jax.ShapeDtypeStruct(tuple(row['shape']), jnp.float32)
  state = jax.eval_shape(optimizer.init, {'p': abstract})
  unused = jax.ShapeDtypeStruct((1,), jnp.float32)  # T5X's placeholder
  for field in ('v_row', 'v_col', 'v'):
    got = getattr(state, field).get('p', unused)
    assert list(got.shape) == row[field], (row, field)


@pytest.mark.parametrize(('size', 'start'), _starts())
def test_prompt_tuning(size, start):
  stored = np.load(fixtures('prompt_tuning') / 'adafactor_prompt.npz')
  path, prefix = 'encoder/prompt/prompt', f'{size}_step{start}'
  optimizer = adafactor(
    decay_rate=0.8,
    step_offset=0,
    multiply_by_parameter_scale=False,
    weight_decay_rate=1e-5,
    first_step=start,
    logical_axes={path: ('prompt', 'prompt_embed')},
  )
  grads = [{path: grad} for grad in stored[f'{size}_grads']]
  params = {path: jnp.asarray(stored[f'{size}_p0'])}
  history, state = _run(optimizer, params, grads, [0.3] * len(grads))
  want = stored[f'{prefix}_params']
  got = np.stack([now[path] for now in history])[-len(want) :]
  np.testing.assert_allclose(got, want, **PROMPT)
  for field in ('v', 'v_row', 'v_col'):
    want = stored[f'{prefix}_{field}']
    if path in getattr(state, field):
      got = getattr(state, field)[path]
      np.testing.assert_allclose(got, want, rtol=PROMPT['rtol'])
    else:
      assert want.shape == (1,)
