"""Arrays that the release of Su et al. 2022 computed."""

import functools
import re

import numpy as np
import pytest

from tests.shared import fixtures

TOLERANCE = dict(rtol=1e-5, atol=1e-5)
ROWS = 100  # positions of a prompt, written into the released classes


@functools.cache
def stored(name):
  with np.load(fixtures('transfer') / f'{name}.npz') as found:
    return {key: found[key] for key in found.files}


def part(name, prefix):
  """{key without the prefix: array}."""
  found = stored(name).items()
  return {k.removeprefix(prefix): x for k, x in found if k.startswith(prefix)}


def names(name, pattern):
  """Distinct first groups of a pattern among the keys."""
  try:
    keys = stored(name)
  except pytest.skip.Exception:
    return []
  met = [re.match(pattern, key) for key in keys]
  return sorted({m[1] for m in met if m})
