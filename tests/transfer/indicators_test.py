"""Indicators against their formulas, pair by pair."""

import itertools

import numpy as np
import pytest

from prompt_jax.transfer import indicators

P, H = 5, 7


@pytest.fixture
def pair():
  rng = np.random.default_rng(3)
  return rng.normal(size=(2, P, H))


def cosine(x, y):
  return x @ y / np.sqrt((x @ x) * (y @ y))


def test_formulas(pair):
  one, other = pair
  rows = list(itertools.product(one, other))
  far = np.mean([np.sqrt(((x - y) ** 2).sum()) for x, y in rows])
  wanted = {
    'E_concat': 1 / (1 + np.sqrt(((one - other) ** 2).sum())),
    'E_average': 1 / (1 + far),
    'C_concat': cosine(one.reshape(-1), other.reshape(-1)),
    'C_average': np.mean([cosine(x, y) for x, y in rows]),
  }
  found = indicators.between(pair)
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name][0, 1], value, rtol=1e-12)
    np.testing.assert_array_equal(found[name], found[name].T)


def test_order_of_rows_matters_to_two(pair):
  one, other = pair
  turned = other[[2, 0, 4, 1, 3]]
  for name, indicator in indicators.INDICATORS.items():
    same = np.isclose(indicator(one, other), indicator(one, turned))
    assert same == name.endswith('average'), name


def test_a_prompt_with_itself(pair):
  one = pair[0]
  assert indicators.e_concat(one, one) == 1
  np.testing.assert_allclose(indicators.c_concat(one, one), 1)
  assert indicators.e_average(one, one) < 1
  assert indicators.c_average(one, one) < 1


def test_zeros_have_no_direction():
  zeros = np.zeros((P, H))
  assert indicators.c_concat(zeros, zeros) == 0
  assert indicators.c_average(zeros, zeros) == 0
