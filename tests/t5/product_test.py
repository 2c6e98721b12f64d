"""The product is a matrix product whose gradients keep the dtype."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.t5.product import contracted, product
from tests.jaxprs import dots

# (x, w): a matrix met by all rows, and batches of matrices as in attention
SHAPES = {
  'matrix': ((7, 5), (5, 11)),
  'rows': ((3, 7, 5), (5, 11)),
  'heads': ((3, 2, 7, 5), (5, 11)),
  'batched': ((3, 2, 7, 5), (3, 2, 5, 11)),
}
every_shape = pytest.mark.parametrize('shapes', SHAPES.values(), ids=SHAPES)
CLOSE = dict(rtol=1e-5, atol=1e-5)


def _draw(shapes, dtype=jnp.float32):
  rng = np.random.default_rng(3)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def _pull(function, x, w, g):
  """Cotangents of both operands."""
  return jax.vjp(function, x, w)[1](g)


@every_shape
def test_it_is_the_matrix_product(shapes):
  x, w = _draw(shapes)
  got = product(x, w, 'float32')
  np.testing.assert_allclose(got, jnp.matmul(x, w), **CLOSE)


@every_shape
def test_gradients_are_those_of_the_matrix_product(shapes):
  x, w = _draw(shapes)
  (g,) = _draw([(*x.shape[:-1], w.shape[-1])])
  got = _pull(lambda x, w: product(x, w, 'float32'), x, w, g)
  for mine, theirs in zip(got, _pull(jnp.matmul, x, w, g), strict=True):
    np.testing.assert_allclose(mine, theirs, **CLOSE)


@every_shape
def test_bfloat16_operands_and_float32_results_both_ways(shapes):
  x, w = _draw(shapes)
  (g,) = _draw([(*x.shape[:-1], w.shape[-1])])
  run = lambda x, w: product(x, w, 'bfloat16')
  pull = lambda x, w, g: _pull(run, x, w, g)
  narrow = ('bfloat16', 'bfloat16', 'float32')
  assert dots(run, x, w) == [narrow]
  assert dots(pull, x, w, g) == [narrow] * 3
  assert run(x, w).dtype == jnp.float32
  # exact products of rounded operands, summed in float32
  rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, w)]
  np.testing.assert_allclose(run(x, w), jnp.matmul(*rounded), **CLOSE)


def test_gradients_have_the_dtypes_of_the_operands():
  (x, w), (g,) = _draw(SHAPES['rows']), _draw([(3, 7, 11)])
  w = w.astype(jnp.bfloat16)
  dx, dw = _pull(lambda x, w: product(x, w, 'bfloat16'), x, w, g)
  assert (dx.dtype, dw.dtype) == (x.dtype, w.dtype)


def test_gradient_of_a_frozen_matrix_is_dropped():
  rows, width, columns = 67, 71, 73
  (x, w) = _draw([(rows, width), (width, columns)])

  def flops(wanted):
    total = lambda x, w: jnp.sum(jnp.square(product(x, w, 'float32')))
    run = jax.jit(jax.grad(total, argnums=wanted))
    return run.lower(x, w).compile().cost_analysis()['flops']

  one = 2 * rows * width * columns
  assert 2 <= flops(0) / one < 2.1  # forward, and backward to the input
  assert 3 <= flops((0, 1)) / one < 3.1


@pytest.mark.parametrize(
  'shapes', [((1, 5), (5, 11)), ((3, 1, 5), (3, 11, 5))], ids=['row', 'heads']
)
def test_a_cpu_multiplies_no_bfloat16_row_by_itself(shapes):
  a, b = _draw(shapes, jnp.bfloat16)
  axes = (-1, -1 if b.ndim == 3 else -2)
  run = jax.jit(lambda a, b: contracted(a, b, axes))
  rows = [shape[-2] for shape in _results_of_dots(run.lower(a, b).as_text())]
  assert rows == [2]
  wide = a.astype(jnp.float32), b.astype(jnp.float32)
  other = wide[1] if b.ndim == 2 else wide[1].swapaxes(-1, -2)
  np.testing.assert_allclose(run(a, b), jnp.matmul(wide[0], other), **CLOSE)


def _results_of_dots(text):
  """The shapes of the results of the products of a lowered program."""
  found = re.findall(r'dot_general.*-> tensor<([\dx]+)xf32>', text)
  return [tuple(map(int, shape.split('x'))) for shape in found]
