"""Spearman in its three definitions."""

import numpy as np
import pytest
from scipy import stats

from prompt_jax.errors import UserError
from prompt_jax.transfer import correlation

M = 5


@pytest.fixture
def tables():
  rng = np.random.default_rng(1)
  alike = rng.random((M, M))
  return alike + alike.T, 0.2 + rng.random((M, M))


def rank(values):
  return stats.rankdata(values)


def rho(x, y):
  return np.corrcoef(rank(x), rank(y))[0, 1]


def test_definitions(tables):
  alike, scores = tables
  found = correlation.correlations(alike, scores)
  off = [[s for s in range(M) if s != t] for t in range(M)]
  own = np.diag(scores)
  wanted = {
    'with_self': np.mean([rho(alike[t], scores[t]) for t in range(M)]),
    'without_self': np.mean(
      [rho(alike[t][off[t]], scores[t][off[t]]) for t in range(M)]
    ),
    'pooled': rho(
      [alike[t, s] for t in range(M) for s in off[t]],
      [scores[t, s] / own[t] for t in range(M) for s in off[t]],
    ),
  }
  for name in correlation.DEFINITIONS:
    np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)


def test_ties_share_their_rank():
  one, other = [1.0, 1.0, 2.0, 3.0], [4.0, 3.0, 3.0, 5.0]
  np.testing.assert_allclose(correlation.spearman(one, other), rho(one, other))


def test_a_constant_row_is_left_out(tables):
  alike, scores = tables
  scores[2] = 0.5
  rows = [t for t in range(M) if t != 2]
  wanted = np.mean([rho(alike[t], scores[t]) for t in rows])
  found = correlation.correlations(alike, scores)['with_self']
  np.testing.assert_allclose(found, wanted)
  assert np.isnan(correlation.spearman([1, 1], [1, 2]))


def test_tables_of_other_tasks(tables):
  alike, scores = tables
  with pytest.raises(UserError, match='expected two square tables'):
    correlation.correlations(alike, scores[:, 1:])
