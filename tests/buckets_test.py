"""Buckets: which lengths are chosen, and the order that they make."""

import collections
import itertools

import numpy as np
import pytest

from prompt_jax import batches, buckets
from prompt_jax.errors import UserError

EDGES = (8, 16, 24)


def windows(counts=(701,), size=5, rates=None, seed=3):
  """Windows over tasks of random lengths; the sizes of each task."""
  rng = np.random.default_rng(11)
  sizes = [rng.integers(1, 25, n) for n in counts]
  orders = [batches.Order(seed, f'task {i}', n) for i, n in enumerate(counts)]
  mixing = batches.Mixing(seed, rates or [1.0] * len(counts))
  return buckets.Windows(seed, size, mixing, orders, sizes, EDGES), sizes


def seen(found, steps, task=0):
  rows = []
  for step in steps:
    ids, examples, _ = found.batch(step)
    rows += examples[ids == task].tolist()
  return rows


@pytest.mark.parametrize('n, size', [(701, 5), (13, 5), (7, 31), (320, 5)])
def test_every_example_once_an_epoch(n, size):
  found, _ = windows((n,), size)
  order = seen(found, range(3 * n // size + 1))
  for start in range(0, 3 * n - n + 1, n):
    assert sorted(order[start : start + n]) == list(range(n))


def test_every_example_once_an_epoch_of_each_task():
  counts = (701, 13, 97)
  found, _ = windows(counts, rates=[5.0, 1.0, 2.0])
  for task, n in enumerate(counts):
    order = seen(found, range(500), task)
    epochs = [order[i : i + n] for i in range(0, len(order) - n, n)]
    assert epochs and all(len(set(epoch)) == n for epoch in epochs)


def test_the_examples_of_a_window_are_those_of_the_plain_order():
  found, _ = windows((701, 97), rates=[3.0, 1.0])
  mixing = batches.Mixing(3, [3.0, 1.0])
  for window in 0, 2:
    steps = range(window * buckets.WINDOW, (window + 1) * buckets.WINDOW)
    ids, places = mixing.locate(steps[0] * 5, buckets.WINDOW * 5)
    for task, n in enumerate((701, 97)):
      order = batches.Order(3, f'task {task}', n)
      plain = order.examples(places[ids == task]).tolist()
      assert collections.Counter(plain) == collections.Counter(
        seen(found, steps, task)
      )


def test_any_step_at_once_is_the_step_in_sequence():
  found, _ = windows((701, 97))
  first = [found.batch(step) for step in range(200)]
  fresh, _ = windows((701, 97))
  for step in 199, 0, 63, 64, 130, 65:
    for one, two in zip(fresh.batch(step), first[step], strict=True):
      np.testing.assert_array_equal(one, two)
  other, _ = windows((701, 97), seed=4)
  assert seen(other, range(9)) != seen(found, range(9))


def test_a_batch_has_the_smallest_bucket_that_holds_it():
  found, sizes = windows()
  lengths = []
  for step in range(140):  # an epoch
    _, rows, length = found.batch(step)
    assert length == buckets.fit(EDGES, sizes[0][rows].max())
    lengths.append(length)
  assert set(lengths) == set(EDGES)
  # all the same length in a row would say that nobody shuffled the batches
  runs = [len(list(group)) for _, group in itertools.groupby(lengths)]
  assert max(runs) < buckets.WINDOW // 4
  # without grouping nearly every batch of five holds a long one
  assert np.mean(lengths) < 0.8 * EDGES[-1]
  assert found.mean_length(140) == np.mean(lengths)


def test_lengths_are_chosen_by_what_they_save():
  share = np.zeros(129)
  share[[20, 30, 60]] = 0.5, 0.4, 0.1
  assert buckets.chosen(share) == (24, 32, 64)
  assert buckets.chosen(share, most=2) == (32, 64)
  assert buckets.chosen(share, most=1) == (64,)
  share[:] = 0
  share[[3, 9]] = 1.0  # below 16 nothing is worth a shape
  assert buckets.chosen(share) == (16,)
  assert buckets.chosen(share[:12]) == (11,)  # never above the longest
  even = np.ones(513)
  assert len(buckets.chosen(even)) == buckets.MOST
  assert buckets.chosen(even)[-1] == 512


def test_the_choice_is_the_best_there_is():
  rng = np.random.default_rng(7)
  share = np.r_[0.0, rng.random(64) ** 3]
  edges = range(16, 65, 8)
  cost = lambda some: sum(
    x * some[np.searchsorted(some, length)] for length, x in enumerate(share)
  )
  best = [
    min(cost([*some, 64]) for some in itertools.combinations(edges[:-1], n))
    for n in range(4)
  ]
  found = buckets.chosen(share)
  assert cost(found) == pytest.approx(best[len(found) - 1])
  # one more saves less than a twentieth
  worth = [b < 0.95 * a for a, b in itertools.pairwise(best)]
  assert len(found) == 1 + worth.index(False)


def test_shares_follow_rates():
  sizes = {'a': np.array([1, 1, 3]), 'b': np.array([2])}
  found = buckets.shares(sizes, {'a': 0.75, 'b': 0.25}, 4)
  np.testing.assert_allclose(found, [0, 0.5, 0.25, 0.25, 0])


@pytest.mark.parametrize('given', ['none', [], [16, 8, 32], [8, 8, 32], [0.5]])
def test_what_is_no_list_of_lengths(given):
  with pytest.raises(UserError, match='LENGTH_BUCKETS is .* ascending input'):
    buckets.check(given, 32)


def test_the_last_length_holds_every_example():
  with pytest.raises(UserError, match='ends with 24, but TASK_FEATURE_LENGTHS'):
    buckets.check([8, 24], 32)
  for good in None, 'auto', [8, 32], (32,):
    buckets.check(good, 32)
