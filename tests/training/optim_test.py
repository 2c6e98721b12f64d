"""AdamW, SGD, the clip and the schedules, against formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_jax.errors import UserError
from prompt_jax.training import optim
from prompt_jax.training.adafactor import adafactor

PATHS = {'encoder/prompt/prompt': (5, 11), 'decoder/a_insert/scale': (7,)}
OPTIMIZERS = {
  'adamw': lambda: optim.adamw(weight_decay=0.1),
  'sgd': optim.sgd,
  'momentum': lambda: optim.sgd(0.9),
  'nesterov': lambda: optim.sgd(0.9, nesterov=True),
  'adafactor': lambda: adafactor(beta1=0.9),
}


def _tree(seed, dtype=np.float32):
  rng = np.random.default_rng(seed)
  return {
    path: jnp.asarray(rng.normal(size=shape), dtype)
    for path, shape in PATHS.items()
  }


def _rates(*rates):
  return dict(zip(PATHS, map(jnp.float32, rates), strict=True))


def _run(optimizer, params, rates, steps=3, dtype=np.float32):
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for step in range(steps):
    grads = _tree(100 + step, dtype)
    updates, state = update(grads, state, params, learning_rate=rates)
    params = optim.apply_updates(params, updates)
  return params, updates, state


@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_contract(make):
  optimizer, params = make(), _tree(0)
  assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
  start = optimizer.init(params)
  _, updates, state = _run(optimizer, params, _rates(0.3, 0.1))
  assert updates.keys() == params.keys()
  assert state.count.shape == () and state.count.dtype == jnp.int32
  assert (start.count, state.count) == (0, 3)
  assert jax.tree.structure(start) == jax.tree.structure(state)
  for field in state._fields:
    value = getattr(state, field)
    assert field == 'count' or value.keys() <= params.keys()
  before, after = jax.eval_shape(lambda: (start, state))
  assert jax.tree.leaves(before) == jax.tree.leaves(after)


@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_path_has_its_own_rate(make):
  params = _tree(0)
  got, _, _ = _run(make(), params, _rates(0.3, 0.1))
  first, _, _ = _run(make(), params, _rates(0.3, 0.3))
  second, _, _ = _run(make(), params, _rates(0.1, 0.1))
  one, two = PATHS
  np.testing.assert_array_equal(got[one], first[one])
  np.testing.assert_array_equal(got[two], second[two])
  assert np.all(first[two] != second[two])


@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_bfloat16_parameters_have_float32_state_and_updates(make):
  params = _tree(0, jnp.bfloat16)
  got, updates, state = _run(
    make(), params, _rates(0.3, 0.3), dtype=jnp.bfloat16
  )
  for leaf in got.values():
    assert leaf.dtype == jnp.bfloat16
  for leaf in updates.values():
    assert leaf.dtype == jnp.float32
  for leaf in jax.tree.leaves(state._replace(count=jnp.float32(0))):
    assert leaf.dtype == jnp.float32


def test_updates_are_added_before_they_are_rounded():
  # just above half a unit of bfloat16: up; the update alone rounds to half
  params = {'p': jnp.ones((2,), jnp.bfloat16)}
  updates = {'p': jnp.full((2,), 2.0**-8 + 2.0**-16)}
  got = optim.apply_updates(params, updates)['p'].astype(jnp.float32)
  np.testing.assert_array_equal(got, 1 + 2.0**-7)


@pytest.mark.parametrize(
  'ours, theirs',
  [
    (
      optim.adamw(0.8, 0.95, 1e-5, 0.1),
      optax.adamw(0.3, 0.8, 0.95, 1e-5, weight_decay=0.1),
    ),
    (optim.sgd(), optax.sgd(0.3)),
    (optim.sgd(0.9), optax.sgd(0.3, 0.9)),
    (optim.sgd(0.9, True), optax.sgd(0.3, 0.9, True)),
    (
      optim.sgd(global_norm_clip=0.5),
      optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.3)),
    ),
    (
      optim.adamw(global_norm_clip=0.5),
      optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(0.3, weight_decay=0.0)
      ),
    ),
  ],
  ids=['adamw', 'sgd', 'momentum', 'nesterov', 'sgd_clip', 'adamw_clip'],
)
def test_with_one_rate_it_is_the_optimizer_of_optax(ours, theirs):
  got, _, _ = _run(ours, _tree(0), _rates(0.3, 0.3))
  params = _tree(0)
  state = theirs.init(params)
  for step in range(3):
    updates, state = theirs.update(_tree(100 + step), state, params)
    params = optax.apply_updates(params, updates)
  for path in PATHS:
    np.testing.assert_allclose(got[path], params[path], rtol=1e-5, atol=1e-6)


def test_clip_global_norm():
  grads = _tree(1)
  norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in grads.values()))
  clipped = optim.clip_global_norm(grads, 0.5)
  left = optim.clip_global_norm(grads, 100.0)
  for path, grad in grads.items():
    np.testing.assert_allclose(clipped[path], grad * (0.5 / norm), rtol=1e-5)
    np.testing.assert_array_equal(left[path], grad)
  zeros = optim.clip_global_norm({'p': jnp.zeros((3,))}, 0.5)
  np.testing.assert_array_equal(zeros['p'], 0.0)


@pytest.mark.parametrize(
  'options, steps, factors',
  [
    ({}, [0, 1, 1000], [1, 1, 1]),
    ({'warmup_steps': 4}, [0, 1, 4, 9], [0, 0.25, 1, 1]),
    ({'kind': 'linear', 'total_steps': 10}, [0, 5, 10, 13], [1, 0.5, 0, 0]),
    (
      {
        'kind': 'linear',
        'warmup_steps': 2,
        'total_steps': 12,
        'final_fraction': 0.2,
      },
      [1, 2, 7, 12, 50],
      [0.5, 1, 0.6, 0.2, 0.2],
    ),
    (
      {'kind': 'cosine', 'warmup_steps': 3, 'total_steps': 11},
      [0, 3, 5, 7, 11, 20],
      [0, 1, (1 + np.sqrt(0.5)) / 2, 0.5, 0, 0],
    ),
    (
      {'kind': 'rsqrt', 'warmup_steps': 100},
      [0, 50, 100, 400, 1_000_000],
      [0, 0.5, 1, 0.5, 0.01],
    ),
  ],
)
def test_schedule(options, steps, factors):
  factor = jax.jit(optim.schedule(**options))
  got = [factor(jnp.int32(step)) for step in steps]
  assert all(one.shape == () and one.dtype == jnp.float32 for one in got)
  np.testing.assert_allclose(got, factors, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: optim.adamw(b1=1.0), 'adamw got b1=1.0; expected a number of'),
    (lambda: optim.sgd(momentum=-0.1), 'sgd got momentum=-0.1'),
    (lambda: optim.sgd(nesterov=True), 'nesterov=True and momentum=None'),
    (
      lambda: optim.sgd(global_norm_clip=0.0),
      'global_norm_clip=0.0; expected a number above 0',
    ),
    (lambda: optim.schedule('cosin'), "Did you mean 'cosine'"),
    (lambda: optim.schedule('rsqrt'), 'warmup_steps=0; expected at least 1'),
    (lambda: optim.schedule(warmup_steps=-1), 'expected at least 0'),
    (lambda: optim.schedule('linear'), 'total_steps=None; expected more than'),
    (
      lambda: optim.schedule('cosine', warmup_steps=7, total_steps=7),
      'total_steps=7; expected more than warmup_steps=7',
    ),
    (
      lambda: optim.schedule('linear', total_steps=7, final_fraction=2.0),
      'final_fraction=2.0; expected a number from 0 to 1',
    ),
    (
      lambda: optim.schedule(final_fraction=0.1),
      'it has no end to fall to',
    ),
  ],
)
def test_errors(make, message):
  with pytest.raises(UserError) as error:
    make()
  assert message in str(error.value)
