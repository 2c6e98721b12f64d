"""Memory that one step gives back stays with the process, for the next step.

A step on a CPU takes hundreds of megabytes for its temporaries. glibc asks the
kernel for them and hands them back, step after step, and the kernel clears
every page anew. With `keep` freed memory stays: no page is cleared twice. A
process then holds what it needed at most, until it ends.
"""

import ctypes
import os

# parameters of mallopt, <malloc.h> of glibc; see mallopt(3)
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_SETTINGS = (
  (_TRIM_THRESHOLD, -1),  # the end of the heap is never cut off
  (_MMAP_MAX, 0),  # large arrays come from the heap, too
  (_ARENA_MAX, 1),  # threads share it; arenas of their own hold 64 MB at most
)


def _is_chosen() -> bool:
  """Whether the user has settings of glibc's own variables."""
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  return 'glibc.malloc.' in tunables or any(
    name.startswith('MALLOC_') for name in os.environ
  )


def keep() -> bool:
  """Keeps freed memory; to be called before JAX has made its threads.

  Returns: whether it is kept: not where malloc is not glibc's, nor where
    GLIBC_TUNABLES or MALLOC_... of the environment say how it is to be.
  """
  try:
    glibc = os.confstr('CS_GNU_LIBC_VERSION')  # None or an error elsewhere
  except (AttributeError, ValueError):
    return False
  if not glibc or _is_chosen():
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all([mallopt(name, value) for name, value in _SETTINGS])
