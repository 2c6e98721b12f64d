"""Indicators: how alike two prompts are, as arrays.

    E_concat  = 1 / (1 + |A - B|)                     rows in order
    E_average = 1 / (1 + mean_ij |A_i - B_j|)         any order of rows
    C_concat  = cos(A flattened, B flattened)         rows in order
    C_average = mean_ij cos(A_i, B_j)                 any order of rows

Higher is more alike. The two that read rows in order compare prompts of one
common start: they say in part how far training moved from it. E_average of a
prompt with itself is not 1.
Source: Su et al. 2022, section 5.1, and its released code.
Departures: float64.
"""

from collections.abc import Callable, Mapping

import numpy as np

from prompt_jax.typing import Array, Float

_SMALL = 1e-8  # PyTorch's cosine: a norm below counts as this


def _unit(rows: np.ndarray) -> np.ndarray:
  """Rows divided by their norms."""
  norms = np.linalg.norm(rows, axis=-1, keepdims=True)
  return rows / np.maximum(norms, _SMALL)


def e_concat(one: Float[Array, 'P H'], other: Float[Array, 'P H']) -> float:
  """1 / (1 + |A - B|), the norm over all entries."""
  return float(1 / (1 + np.linalg.norm(_rows(one) - _rows(other))))


def e_average(one: Float[Array, 'P H'], other: Float[Array, 'P H']) -> float:
  """1 / (1 + mean_ij |A_i - B_j|) over all pairs of rows."""
  one, other = _rows(one), _rows(other)
  squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None]  # [P,P]
  squares = np.maximum(squares - 2 * one @ other.T, 0)
  return float(1 / (1 + np.sqrt(squares).mean()))


def c_concat(one: Float[Array, 'P H'], other: Float[Array, 'P H']) -> float:
  """cos(A, B), all entries in order."""
  return float(_unit(_rows(one).reshape(-1)) @ _unit(_rows(other).reshape(-1)))


def c_average(one: Float[Array, 'P H'], other: Float[Array, 'P H']) -> float:
  """mean_ij cos(A_i, B_j), the product of the mean directions."""
  return float(_unit(_rows(one)).mean(0) @ _unit(_rows(other)).mean(0))


INDICATORS: Mapping[str, Callable] = {
  'E_concat': e_concat,
  'E_average': e_average,
  'C_concat': c_concat,
  'C_average': c_average,
}


def between(prompts: Float[Array, 'S P H']) -> dict[str, np.ndarray]:
  """Every indicator of every pair of prompts.

  Args:
    prompts: of one width; [S,P,H].
  Returns: {name: float64[S,S]}, symmetric.
  """
  found = {}
  for name, indicator in INDICATORS.items():
    table = np.zeros((len(prompts),) * 2)
    for i, one in enumerate(prompts):
      for j in range(i + 1):
        table[i, j] = table[j, i] = indicator(one, prompts[j])
    found[name] = table
  return found


def _rows(prompt) -> np.ndarray:
  return np.asarray(prompt, np.float64)
