"""Mixtures of prompts: the paper's formulas in NumPy, tasks, bank, errors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts.attempt import Attempt, pooled_max
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.shared import TaskPrompts
from tests.prompts.sources import apply, filled, initial, inputs

S, P, H, D, TASKS = 3, 7, 13, 11, 2
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def paths(tmp_path):
  rng = np.random.default_rng(5)
  made = [str(tmp_path / f'{name}.npy') for name in ('mnli', 'sst2', 'qqp')]
  for path in made:
    np.save(path, rng.normal(size=(P, H)).astype(np.float32))
  return made


Target = functools.partial(TaskPrompts, TASKS, P)


def _source(paths, target=Target, **settings):
  settings = dict(bottleneck=D, temperature=3.0) | settings
  return Attempt(target, functools.partial(Bank, paths, P), **settings)


def _softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def _formula(flat, task, x, temperature):
  """One row: x [n,H] without padding."""
  f = {k: np.asarray(v, np.float64) for k, v in flat.items()}
  z = x.max(axis=0) @ f['query/down/kernel']
  z = (z / (1 + np.exp(-z))) @ f['query/up/kernel']
  z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
  h = z * f['query/norm/scale'] + f['query/norm/bias']
  own = f['targets/prompts'][task]
  every = np.stack([*f['bank/prompts'], own])
  weights = _softmax(every.max(axis=1) @ h / temperature)
  return own + np.tensordot(weights, every, 1), weights


@pytest.mark.parametrize('temperature', [3.0, None])
def test_formula(paths, temperature):
  ids, embeds, mask = inputs(rows=5, width=H)
  source = _source(paths, temperature=temperature)
  flat = filled(source, ids, embeds, mask)
  got = apply(source, flat, ids, embeds, mask, method='mixture')
  for b, task in enumerate(np.asarray(ids)):
    real = np.asarray(embeds[b])[np.asarray(mask[b])]
    tau = temperature or math.e * H
    prompt, weights = _formula(flat, task, real, tau)
    np.testing.assert_allclose(got.prompt[b], prompt, **CLOSE)
    np.testing.assert_allclose(got.weights[b], weights, **CLOSE)


def test_a_mixed_batch_is_its_tasks_one_at_a_time(paths):
  ids, embeds, mask = inputs(rows=5, width=H)
  source = _source(paths)
  flat = filled(source, ids, embeds, mask)
  mixed = apply(source, flat, ids, embeds, mask)
  for b in range(5):
    rows = slice(b, b + 1)
    alone = apply(source, flat, ids[rows], embeds[rows], mask[rows])
    np.testing.assert_allclose(mixed[rows], alone, rtol=0, atol=1e-6)


def test_padding_is_not_pooled_unless_asked(paths):
  ids, embeds, mask = inputs(rows=4, width=H)
  loud = jnp.where(mask[:, :, None], embeds, 9.0)
  source = _source(paths)
  flat = filled(source, ids, embeds, mask)
  both = [apply(source, flat, ids, x, mask) for x in (embeds, loud)]
  np.testing.assert_array_equal(*both)
  released = _source(paths, pool_padding=True)
  seen = apply(released, flat, ids, loud, mask)
  padded = ~np.asarray(mask).all(axis=1)
  gap = np.abs(seen - both[0]).max(axis=(1, 2))
  assert (gap[padded] > 1e-3).all() and (gap[~padded] < 1e-6).all()


def test_a_row_that_only_pads_is_finite():
  embeds, mask = jnp.ones((2, 3, 5)), jnp.array([[True] * 3, [False] * 3])
  pooled = pooled_max(embeds, mask)
  np.testing.assert_array_equal(pooled, [[1.0] * 5, [0.0] * 5])


def test_the_bank_holds_the_files_and_names_them(paths):
  source = _source(paths)
  flat = initial(source, *inputs(width=H))
  for row, path in zip(flat['bank/prompts'], paths, strict=True):
    np.testing.assert_array_equal(row, np.load(path))
  assert source.names == ('mnli', 'sst2', 'qqp', 'target')
  assert source.length == P and source.num_tasks == TASKS
  source.check(H)


def test_applied_it_reads_no_file(paths):
  args = inputs(width=H)
  flat = filled(_source(paths), *args)
  gone = _source([f'{path}.gone' for path in paths])
  wanted = apply(_source(paths), flat, *args)
  np.testing.assert_array_equal(apply(gone, flat, *args), wanted)


def test_the_order_of_the_bank_is_immaterial(paths):
  args = inputs(width=H)
  source = _source(paths)
  flat = filled(source, *args)
  order = jnp.array([2, 0, 1])
  moved = flat | {'bank/prompts': flat['bank/prompts'][order]}
  one, other = (
    apply(source, each, *args, method='mixture') for each in (flat, moved)
  )
  np.testing.assert_allclose(one.prompt, other.prompt, **CLOSE)
  weights = np.asarray(one.weights)[:, [2, 0, 1, 3]]
  np.testing.assert_allclose(other.weights, weights, **CLOSE)


def test_an_infinite_temperature_is_constant(paths):
  args = inputs(width=H)
  flat = filled(_source(paths), *args)
  hot = apply(_source(paths, temperature=1e9), flat, *args)
  own = {k: v for k, v in flat.items() if 'query' not in k}
  constant = _source(paths, attention='constant')
  assert initial(constant, *args).keys() == own.keys()
  np.testing.assert_allclose(apply(constant, own, *args), hot, **CLOSE)


def test_without_sources_the_target_counts_twice():
  ids, embeds, mask = inputs(width=H)
  source = _source([])
  flat = filled(source, ids, embeds, mask)
  own = np.asarray(flat['targets/prompts'])[np.asarray(ids)]
  np.testing.assert_allclose(
    apply(source, flat, ids, embeds, mask), 2 * own, **CLOSE
  )


def test_gradients_reach_target_and_query_but_not_absent_tasks(paths):
  ids, embeds, mask = inputs(width=H)
  source = _source(paths)
  flat = filled(source, ids, embeds, mask)
  only = jnp.zeros_like(ids)
  total = lambda flat: jnp.sum(apply(source, flat, only, embeds, mask) ** 2)
  gradients = jax.grad(total)(flat)
  for path, gradient in gradients.items():
    assert np.abs(gradient).sum() > 0, path
  assert not np.asarray(gradients['targets/prompts'][1]).any()


def test_the_query_has_no_biases_and_starts_small(paths):
  flat = initial(_source(paths, bottleneck=997), *inputs(width=H))
  query = {k for k in flat if k.startswith('query')}
  assert query == {
    'query/down/kernel',
    'query/up/kernel',
    'query/norm/scale',
    'query/norm/bias',
  }
  for name in ('down', 'up'):
    assert 0.009 < np.std(flat[f'query/{name}/kernel']) < 0.011


def test_counts_of_t5_base():
  ids, embeds, mask = inputs(rows=1, width=768)

  def count(target):
    source = Attempt(target, functools.partial(Bank, ['unread'] * 6, 100))
    made = jax.eval_shape(source.init, jax.random.key(0), ids, embeds, mask)
    flat = {k: v.value for k, v in params.flatten(made['params']).items()}
    return params.count({k: v for k, v in flat.items() if 'bank' not in k})

  assert count(functools.partial(Prompt, 100)) == 231_936
  assert count(functools.partial(TaskPrompts, 8, 100)) == 8 * 96_192


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(attention='tokens'), r"attention='tokens'; .* Nearest: 'token'"),
    (
      dict(target=functools.partial(Prompt, 5)),
      'source prompts of 7 positions and target prompts of 5; expected the '
      'same. Set PROMPT_LENGTH=7',
    ),
  ],
)
def test_errors(paths, settings, message):
  with pytest.raises(UserError, match=message):
    initial(_source(paths, **settings), *inputs(width=H))


def test_errors_of_the_bank(paths):
  with pytest.raises(UserError, match='expected a list of saved prompts'):
    Bank([]).check(H)
  with pytest.raises(UserError, match='not 5: set PROMPT_LENGTH=7'):
    Bank(paths, 5).check(H)
  with pytest.raises(UserError, match='13 wide and the model 17'):
    _source(paths).check(17)
