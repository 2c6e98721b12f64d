"""Attention's one rule against autodiff of the formula, in both dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.t5.attend import attend, join, split
from tests.jaxprs import dots

# (B, N, T, J, K); one head, one query and one key are laid out differently
SIZES = [(2, 3, 5, 7, 11), (2, 1, 3, 5, 7), (3, 2, 1, 5, 7), (2, 3, 7, 1, 5)]
every_size = pytest.mark.parametrize('sizes', SIZES, ids=str)


def _draw(*shape, seed=3):
  draws = np.random.default_rng([seed, *shape])
  return jnp.asarray(draws.normal(size=shape), jnp.float32)


def _given(sizes):
  """Query, key, value, what is added, and the cotangent."""
  b, n, t, j, k = sizes
  return (
    _draw(b, n, t, k, seed=1),
    _draw(b, n, j, k, seed=2),
    _draw(b, n, j, k, seed=3),
    _draw(1, n, t, j, seed=4),
    _draw(b, n, t, k, seed=5),
  )


def _formula(query, key, value, add):
  scores = jnp.einsum('bntk,bnjk->bntj', query, key) + add
  weights = jax.nn.softmax(scores, axis=-1)
  return jnp.einsum('bntj,bnjk->bntk', weights, value)


def _results(function, *operands, g):
  """The output and the cotangents of all operands."""

  @jax.jit
  def run(operands, g):
    y, pull = jax.vjp(function, *operands)
    return y, *pull(g)

  return run(operands, g)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_splitting_heads_is_a_transposition_both_ways(dtype):
  y = _draw(2, 5, 21)
  heads = split(y, 3, dtype)
  expected = y.reshape(2, 5, 3, 7).transpose(0, 2, 1, 3)
  np.testing.assert_array_equal(heads, expected)
  np.testing.assert_array_equal(join(heads, dtype), y)
  g = _draw(2, 3, 5, 7)
  pulled = jax.vjp(lambda y: split(y, 3, dtype), y)[1](g)[0]
  np.testing.assert_array_equal(pulled, join(g, dtype))
  pulled = jax.vjp(lambda y: join(y, dtype), heads)[1](y)[0]
  np.testing.assert_array_equal(pulled, heads)


@every_size
def test_float32_gradients_are_those_of_autodiff(sizes):
  *operands, g = _given(sizes)
  run = lambda *operands: attend(*operands, 'float32')
  got = _results(run, *operands, g=g)
  expected = _results(_formula, *operands, g=g)
  for mine, theirs in zip(got, expected, strict=True):
    size = max(1.0, float(jnp.abs(theirs).max()))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6 * size)


def _rounded(x):
  return x.astype(jnp.bfloat16).astype(jnp.float32)


@every_size
def test_bfloat16_is_the_formula_with_rounded_operands(sizes):
  *operands, add, g = _given(sizes)
  run = lambda *operands: attend(*operands, 'bfloat16')
  got = _results(run, *operands, add, g=g)
  query, key, value, g = (_rounded(x) for x in (*operands, g))
  scores = jnp.einsum('bntk,bnjk->bntj', query, key) + add
  weights = _rounded(jax.nn.softmax(scores, axis=-1))
  pulled = jnp.einsum('bntk,bnjk->bntj', g, value)
  mean = jnp.sum(weights * pulled, axis=-1, keepdims=True)
  dscores = weights * (pulled - mean)
  expected = (
    jnp.einsum('bntj,bnjk->bntk', weights, value),
    jnp.einsum('bntj,bnjk->bntk', _rounded(dscores), key),
    jnp.einsum('bntj,bntk->bnjk', _rounded(dscores), query),
    jnp.einsum('bntj,bntk->bnjk', weights, g),
    dscores.sum(axis=0, keepdims=True),
  )
  for mine, theirs in zip(got, expected, strict=True):
    assert mine.dtype == jnp.float32
    # sums in another order may round an operand to its neighbour: 2^-8 of it
    size = max(1.0, float(jnp.abs(theirs).max()))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=2**-8 * size)


def test_every_product_has_bfloat16_operands_and_float32_results():
  *operands, g = _given(SIZES[0])
  run = lambda *operands: attend(*operands, 'bfloat16')
  pull = lambda *all_: jax.vjp(run, *all_[:-1])[1](all_[-1])
  found = dots(pull, *operands, g)
  assert set(found) == {('bfloat16', 'bfloat16', 'float32')}


def test_gradients_have_the_dtypes_of_the_operands():
  *operands, add, g = _given(SIZES[0])
  operands = [x.astype(jnp.bfloat16) for x in operands]
  run = lambda *operands: attend(*operands, 'bfloat16')
  y, *found = _results(run, *operands, add, g=g)
  assert y.dtype == jnp.float32
  assert [x.dtype.name for x in found] == ['bfloat16'] * 3 + ['float32']
