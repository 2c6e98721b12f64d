"""What is known of a stored array before it is read: shape and dtype."""

from typing import NamedTuple

import ml_dtypes
import numpy as np


class Leaf(NamedTuple):
  """Shape and dtype of an array that is still on disk."""

  shape: tuple[int, ...]
  dtype: np.dtype


def dtype_named(name: str) -> np.dtype:
  """NumPy's dtype for a stored name; knows bfloat16, refuses objects.

  Args:
    name: a NumPy or zarr v2 name ('float32', '<f4', 'bfloat16').
  Returns: a dtype of numbers or truth values.
  Raises: ValueError for any other name: object arrays would need pickle,
    which can run code.
  """
  if name == 'bfloat16':  # NumPy does not know the name by itself
    return np.dtype(ml_dtypes.bfloat16)
  try:
    dtype = np.dtype(name)
  except TypeError as error:
    raise ValueError(f'dtype {name!r} is unknown') from error
  if dtype.kind not in 'biufc':
    raise ValueError(f'dtype {name!r} does not hold numbers')
  return dtype
