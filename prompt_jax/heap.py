"""Memory that one step gives back stays with the process, for the next step.

A step on a CPU takes hundreds of megabytes for its temporaries. glibc asks the
kernel for them and hands them back, step after step, and the kernel clears
every page anew. With `keep` freed memory stays: no page is cleared twice. A
process then holds what it needed at most, until it ends.

What a compiler frees lies in thousands of pieces of many sizes, one heap for
all threads, and every later request walks over them under its lock: steps took
a tenth longer than with a program loaded, two lanes at once 30 %. With `tidy`
these pieces are never looked at again.
"""

import ctypes
import mmap
import os
import threading

# parameters of mallopt, <malloc.h> of glibc; see mallopt(3)
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_SETTINGS = (
  (_TRIM_THRESHOLD, -1),  # the end of the heap is never cut off
  (_MMAP_MAX, 0),  # large arrays come from the heap, too
  (_ARENA_MAX, 1),  # threads share it; arenas of their own hold 64 MB at most
)

# Products ask for pieces of 16 kB to 1 MB, thousands of times a step. Chunks of
# glibc lie 16 bytes apart, the size of one before it.
_HEADER = 16
_PIECE = 16384 - _HEADER
_LARGE = 2**20
_MOST = 2**30  # bytes of one call; a compiler leaves some 0.1 GB

_libc: list[ctypes.CDLL] = []  # of a heap that is kept
_turn = threading.Lock()  # the pieces of two would lie between each other


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
  libc = ctypes.CDLL(None)
  kept = all([libc.mallopt(name, value) for name, value in _SETTINGS])
  if kept and not _libc:
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _libc.append(libc)
  return kept


def tidy() -> int:
  """Takes free pieces below a megabyte out of the heap, and empties them.

  malloc serves the smallest piece that is large enough: once what it gives lies
  in a row for a megabyte, there are no small ones any more. Their pages go back
  to the kernel. Without `keep` nothing is done.

  Returns: bytes that were taken out.
  """
  if not _libc:
    return 0
  with _turn:
    return _tidied(_libc[0])


def _tidied(libc: ctypes.CDLL) -> int:
  taken, row = 0, []
  while taken < _MOST:
    piece = libc.malloc(_PIECE)
    if not piece:
      break
    if row and piece != row[-1] + _PIECE + _HEADER:
      taken += _empty(libc, row)
      row = []
    row.append(piece)
    if len(row) * _PIECE > _LARGE:
      break
  for piece in row:
    libc.free(piece)
  return taken


def _empty(libc: ctypes.CDLL, pieces: list[int]) -> int:
  """Gives whole pages of pieces back; their headers stay. The bytes of all."""
  for piece in pieces:
    start = -(-piece // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (piece + _PIECE) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
      libc.madvise(start, end - start, mmap.MADV_DONTNEED)
  return len(pieces) * _PIECE
