"""Freed memory stays with a process that asks for it, and with no other."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from prompt_jax import heap

_ROOT = pathlib.Path(__file__).parents[1]
_STEPS = """
import json, resource, sys

from prompt_jax import heap

kept = heap.keep() if sys.argv[1] == 'keep' else None

import jax
import jax.numpy as jnp


@jax.jit
def step(x):
  return (x @ x.T) @ x / x.size  # 36 MB between the products


x = jnp.ones((3001, 7))
faults = []
for _ in range(41):
  jax.block_until_ready(step(x))
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(json.dumps([kept, faults[-1] - faults[-21]]))
"""


def _asked(what: str, **variables: str) -> tuple[bool | None, int]:
  """(what `keep` said, page faults of twenty steps) of a new process."""
  mine = {
    name: value
    for name, value in os.environ.items()
    if name != 'GLIBC_TUNABLES' and not name.startswith('MALLOC_')
  }
  done = subprocess.run(
    [sys.executable, '-c', _STEPS, what],
    env={**mine, **variables},
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def _has_glibc() -> bool:
  try:
    return bool(os.confstr('CS_GNU_LIBC_VERSION'))
  except (AttributeError, ValueError):
    return False


@pytest.mark.skipif(not _has_glibc(), reason='malloc is not that of glibc')
def test_no_page_is_cleared_twice():
  kept, faults = _asked('keep')
  nothing, usual = _asked('leave')
  assert kept is True and nothing is None
  # 20 steps of 36 MB in pages of 4 kB; a heap still grows now and then
  assert usual > 20 * 36e6 / 4096 * 0.9 and faults < usual / 3


@pytest.mark.parametrize(
  'variables',
  [{'GLIBC_TUNABLES': 'glibc.malloc.arena_max=3'}, {'MALLOC_ARENA_MAX': '3'}],
)
def test_the_settings_of_the_user_stay(monkeypatch, variables):
  for name in [x for x in os.environ if x.startswith('MALLOC_')]:
    monkeypatch.delenv(name)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  assert heap.keep() is False


@pytest.mark.parametrize('found', [None, ValueError, AttributeError])
def test_other_libraries_are_left_alone(monkeypatch, found):
  def confstr(name):
    if found is None:
      return None
    raise found(name)

  monkeypatch.setattr(os, 'confstr', confstr)
  assert heap.keep() is False
