"""Ragged tokens, keyed draws, mixing at any place, prefetching in order."""

import itertools
import threading
import time

import numpy as np
import pytest

from prompt_jax import batches
from prompt_jax.errors import UserError


def test_mixing_jumps_as_it_walks():
  walked, jumped = (batches.Mixing(5, [0.2, 0.5, 0.3]) for _ in range(2))
  start = 3 * batches.BLOCK - 41
  for at in range(0, start + 100, 83):
    walked.locate(at, 83)
  ids, places = jumped.locate(start, 83)
  for got, expected in zip(
    walked.locate(start, 83), (ids, places), strict=True
  ):
    np.testing.assert_array_equal(got, expected)
  everything, _ = jumped.locate(0, start + 83)
  before = np.bincount(everything[:start], minlength=3)
  np.testing.assert_array_equal(jumped.before(start), before)
  for i in range(83):
    assert places[i] == np.sum(everything[: start + i] == ids[i])


def test_mixing_draws_each_block_anew():
  ids, _ = batches.Mixing(5, [0.2, 0.5, 0.3]).locate(0, 3 * batches.BLOCK)
  blocks = {block.tobytes() for block in np.split(ids, 3)}
  assert len(blocks) == 3


def test_raw_draws_are_pinned():
  # a change here changes the order of every run; Philox4x64-10 promises none
  one = batches.draws(17, batches.ORDER, 3, 2, 5)
  two = batches.draws(17, batches.ORDER, 3, 2, 2)
  assert one[:2].tolist() == two.tolist()
  assert one[0] == 2576526854485371436
  others = [(18, 1, 3, 2), (17, 2, 3, 2), (17, 1, 5, 2), (17, 1, 3, 7)]
  assert all(batches.draws(*place, 1)[0] != one[0] for place in others)


def test_ragged_cut_and_pad():
  whole = batches.Ragged.of([[5, 6, 7, 1], [1], [], [4, 4, 4, 4, 4], [3, 1]])
  short, cut = whole.cut(3)
  rows = [short[i].tolist() for i in range(5)]
  assert rows == [[5, 6, 1], [1], [], [4, 4, 4], [3, 1]] and cut == 2
  padded = short.pad(np.array([4, 2, 0]), 5)
  assert padded.tolist() == [[3, 1, 0, 0, 0], [0] * 5, [5, 6, 1, 0, 0]]
  assert whole.cut(5) == (whole, 0)
  assert short.digest() != whole.digest()


def test_prefetch_keeps_order_and_stops():
  made = []

  def numbers():
    for i in itertools.count():
      made.append(i)
      yield i

  ahead = batches.prefetch(numbers(), n=3)
  assert list(itertools.islice(ahead, 50)) == list(range(50))
  time.sleep(0.05)
  assert len(made) <= 50 + 4
  ahead.close()
  assert not [t for t in threading.enumerate() if t.name == 'prefetch']
  assert list(batches.prefetch(iter('abc'))) == ['a', 'b', 'c']


def test_prefetch_raises_where_the_item_would_come():
  def broken():
    yield 1
    yield 2
    raise UserError('the third is bad')

  ahead = batches.prefetch(broken(), n=5)
  assert [next(ahead), next(ahead)] == [1, 2]
  with pytest.raises(UserError, match='the third is bad'):
    next(ahead)
  assert not [t for t in threading.enumerate() if t.name == 'prefetch']
