"""Spearman: whether an indicator orders prompts as their transfer does.

    per target:  mean_t rho over s of (indicator[s,t], score[t,s])
    pooled:      rho over all t != s of (indicator[s,t], score[t,s]/score[t,t])

Ties have their mean rank; a target whose scores or indicators are all equal
has no order and is left out.
Source: Su et al. 2022, section 5.2; the released code has no such step.
"""

from collections.abc import Mapping
import warnings

import numpy as np
from scipy import stats

from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Float

DEFINITIONS = ('with_self', 'without_self', 'pooled')


def spearman(one: Float[Array, ' N'], other: Float[Array, ' N']) -> float:
  """Rank correlation; nan where one of them is constant or there is no pair."""
  if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
    return float('nan')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of nearly constant input
    return float(stats.spearmanr(one, other).statistic)


def correlations(
  indicator: Float[Array, 'M M'], scores: Float[Array, 'M M']
) -> dict[str, float]:
  """How an indicator goes with transfer, in three definitions.

  Args:
    indicator: [source, target] or, as it is symmetric, the other way round.
    scores: [target, source], of prompts in the order of their own tasks.
  Returns: {'with_self', 'without_self', 'pooled': rho or nan}.
  Raises: UserError if the tables are not of one square shape.
  """
  indicator, scores = np.asarray(indicator), np.asarray(scores)
  if indicator.shape != scores.shape or len(set(scores.shape)) != 1:
    raise UserError(
      f'The indicator is {list(indicator.shape)} and the scores are '
      f'{list(scores.shape)}; expected two square tables over the same tasks. '
      'Keep the tasks that have both a prompt and a row of scores.'
    )
  off = ~np.eye(len(scores), dtype=bool)
  relative = scores / np.diag(scores)[:, None]
  each = {
    'with_self': [
      spearman(indicator[t], scores[t]) for t in range(len(scores))
    ],
    'without_self': [
      spearman(indicator[t][off[t]], scores[t][off[t]])
      for t in range(len(scores))
    ],
    'pooled': [spearman(indicator[off], relative[off])],
  }
  return {name: _mean(values) for name, values in each.items()}


def table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
  """{indicator: what `correlations` returns} as lines of a table."""
  wide = max(len(name) for name in (*found, 'indicator'))
  lines = [f'{"indicator":{wide}}  with self  without self  pooled']
  for name, rho in found.items():
    one, two, three = (rho[key] for key in DEFINITIONS)
    lines.append(f'{name:{wide}}  {one:9.3f}  {two:12.3f}  {three:6.3f}')
  return lines


def _mean(values) -> float:
  """The mean of what is not nan; nan of nothing."""
  known = [value for value in values if not np.isnan(value)]
  return float(np.mean(known)) if known else float('nan')
