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

_PIECES = """
import ctypes, json, random, resource, sys

from prompt_jax import heap

kept = heap.keep() if sys.argv[1] == 'keep' else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
draw = random.Random(7)
held = {}
for i in range(2003):
  size = draw.randrange(20011, 60013)
  piece = libc.malloc(size)
  ctypes.memset(piece, i % 251, size)
  held[piece] = i % 251, size
low, high = min(held), max(held)
for piece in list(held)[::2]:
  libc.free(piece)
  del held[piece]


def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * resource.getpagesize()


before = resident()
taken = heap.tidy()
fell = before - resident()
found = [libc.malloc(draw.randrange(17011, 50021)) for _ in range(31)]
inside = sum(low < piece < high for piece in found)
whole = all(
  ctypes.string_at(piece, size) == bytes([value]) * size
  for piece, (value, size) in held.items()
)
for piece in [*held, *found]:  # glibc aborts if a header is damaged
  libc.free(piece)
print(json.dumps([kept, taken, fell, inside, whole]))
"""

_AT_ONCE = """
import concurrent.futures, json, sys, threading

from prompt_jax import heap

heap.keep()
sys.setswitchinterval(1e-6)
together = threading.Barrier(2)


def tidy(_):
  together.wait()
  return heap.tidy()


with concurrent.futures.ThreadPoolExecutor(2) as pool:
  print(json.dumps(list(pool.map(tidy, range(202)))))
"""


def _asked(what: str, script: str = _STEPS, **variables: str) -> list:
  """What a script prints in a new process.

  By default (what `keep` said, page faults of twenty steps).
  """
  mine = {
    name: value
    for name, value in os.environ.items()
    if name != 'GLIBC_TUNABLES' and not name.startswith('MALLOC_')
  }
  done = subprocess.run(
    [sys.executable, '-c', script, what],
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


@pytest.mark.skipif(not _has_glibc(), reason='malloc is not that of glibc')
def test_small_pieces_are_taken_out_and_emptied():
  kept, taken, fell, inside, whole = _asked('keep', _PIECES)
  # every second of 2,003 pieces of 40 kB on average is free; of each the last
  # 16 kB at most stay, and of what is taken a page in four
  assert kept is True and 20e6 < taken < 60e6
  assert fell > taken / 2 and inside == 0 and whole


@pytest.mark.skipif(not _has_glibc(), reason='malloc is not that of glibc')
def test_threads_do_not_take_what_lies_between_their_pieces():
  assert sum(_asked('keep', _AT_ONCE)) < 20e6


@pytest.mark.skipif(not _has_glibc(), reason='malloc is not that of glibc')
def test_a_heap_that_is_not_kept_is_not_tidied():
  kept, taken, _, inside, whole = _asked('leave', _PIECES)
  assert kept is None and taken == 0 and inside > 0 and whole


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
