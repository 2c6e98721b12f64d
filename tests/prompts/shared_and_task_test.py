"""Shared and task prompts: each combination in NumPy, tasks, sizes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts.shared_and_task import COMBINE, SharedAndTask
from tests.prompts.sources import apply, filled, initial, inputs

TASKS, P, H = 2, 7, 13
CLOSE = dict(rtol=1e-5, atol=1e-5)
SIZES = {
  'add': {},
  'concat': dict(task_length=3),
  'concat_features': dict(shared_features=5),
  'project': dict(shared_features=5),
  'rank_one': {},
}
every_way = pytest.mark.parametrize('combine', COMBINE)


def _source(combine, **settings):
  return SharedAndTask(TASKS, P, combine, **SIZES[combine] | settings)


def _formula(combine, f, t):
  """The prompt of one task, out of {name: array}."""
  shared = f['shared']
  if combine == 'project':
    return shared @ f['kernels'][t] + f['biases'][t]
  if combine == 'rank_one':
    return shared * np.outer(f['rows'][t], f['columns'][t])
  own = f['tasks'][t]
  return {
    'add': lambda: shared + own,
    'concat': lambda: np.concatenate([shared, own], axis=0),
    'concat_features': lambda: np.concatenate([shared, own], axis=1),
  }[combine]()


@every_way
def test_formula_and_mixed_batch(combine):
  ids, embeds, mask = inputs(rows=5, width=H)
  source = _source(combine)
  flat = filled(source, ids, embeds, mask)
  mixed = apply(source, flat, ids, embeds, mask)
  assert mixed.shape == (5, P, H) and source.length == P
  arrays = {k: np.asarray(v) for k, v in flat.items()}
  for b, task in enumerate(np.asarray(ids)):
    wanted = _formula(combine, arrays, task)
    np.testing.assert_allclose(mixed[b], wanted, **CLOSE)
    alone = apply(source, flat, ids[b : b + 1], embeds[:1], mask[:1])
    np.testing.assert_allclose(mixed[b], alone[0], rtol=0, atol=1e-6)


@every_way
def test_a_task_moves_its_own_part_and_the_shared_one(combine):
  ids, embeds, mask = inputs(width=H)
  source = _source(combine)
  flat = filled(source, ids, embeds, mask)
  only = jnp.ones_like(ids)
  total = lambda flat: jnp.sum(apply(source, flat, only, embeds, mask) ** 2)
  for path, gradient in jax.grad(total)(flat).items():
    assert np.abs(gradient[-1]).sum() > 0, path
    if path != 'shared':
      assert not np.asarray(gradient[0]).any(), path


def test_a_product_starts_at_the_shared_prompt():
  args = inputs(width=H)
  flat = initial(_source('rank_one'), *args)
  got = apply(_source('rank_one'), flat, *args)
  for row in got:
    np.testing.assert_array_equal(row, flat['shared'])


def test_sizes_that_are_not_said():
  args = inputs(width=H)
  shape = lambda combine: {
    k: v.shape
    for k, v in initial(SharedAndTask(TASKS, P, combine), *args).items()
  }
  assert shape('concat') == {'shared': (4, H), 'tasks': (TASKS, 3, H)}
  assert shape('concat_features')['shared'] == (P, 6)
  assert shape('project')['kernels'] == (TASKS, H, H)


def test_a_product_has_the_parameters_of_the_paper():
  ids, embeds, mask = inputs(rows=1, width=768)
  source = SharedAndTask(1, 100, 'rank_one')
  make = lambda: initial(source, ids, embeds, mask)
  assert params.count(jax.eval_shape(make)) == 77_668  # 77.6K in table 1


@pytest.mark.parametrize(
  'combine, settings, message',
  [
    ('ad', {}, r"combine='ad'; expected one of .* Nearest: 'add'"),
    ('concat', dict(task_length=7), 'task_length=7 of 7; expected at least 1'),
    (
      'concat_features',
      dict(shared_features=0),
      'shared_features=0 of 13; expected at least 1 and at most 12',
    ),
  ],
)
def test_errors(combine, settings, message):
  source = SharedAndTask(TASKS, P, combine, **settings)
  with pytest.raises(UserError, match=message):
    initial(source, *inputs(width=H))
