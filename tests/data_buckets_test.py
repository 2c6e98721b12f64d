"""Batches of like length: every example once, resume, shapes, padding."""

import collections

import numpy as np
import pytest

seqio = pytest.importorskip('seqio')


from tests import counted  # noqa: E402
from tests.counted import (  # noqa: E402
  BUCKETS,
  dataset,
  same,
)

# fixtures of the tests below
tasks, vocabulary = counted.tasks, counted.vocabulary


def lengths_of(found, steps):
  return [found.batch(s)['encoder_input_tokens'].shape[1] for s in steps]


def rows_of(found, steps):
  """The real tokens of every row."""
  arrays = [found.batch(step)['encoder_input_tokens'] for step in steps]
  return [tuple(row[row > 0]) for array in arrays for row in array]


def test_buckets_hold_every_example_once_an_epoch(tasks):
  names, rates = ['big', 'long'], {'big': 3, 'long': 1}
  plain = dataset('big')
  for settings in BUCKETS, {'length_buckets': 'auto'}:
    found = dataset('big', **settings)
    assert (found.num_examples, found.steps_per_epoch) == (47, 10)
    order = rows_of(found, range(47))
    assert all(
      sorted(order[i : i + 47]) == sorted(rows_of(plain, range(47))[i : i + 47])
      for i in range(0, 235, 47)
    )
  found = dataset(names, rates=rates, **BUCKETS)
  held = lengths_of(found, range(60))
  assert set(held) <= {9, 12, 23} and len(set(held)) > 1
  for step, length in enumerate(held):
    batch = found.batch(step)
    longest = (batch['encoder_input_tokens'] > 0).sum(axis=1).max()
    assert length == min(x for x in (9, 12, 23) if x >= longest)
    # no target of the tasks is longer
    assert (
      batch['decoder_target_tokens'].shape[1] == found.lengths['targets'][0]
    )
  assert found.lengths['targets'][0] == max(
    (dataset(names, rates=rates).batch(s)['decoder_target_tokens'] > 0)
    .sum(axis=1)
    .max()
    for s in range(20)
  )


def test_buckets_resume_and_count_in_the_fingerprint(tasks):
  names = ['big', 'small', 'long']
  whole = dataset(names, **BUCKETS)
  first = [whole.batch(step) for step in range(150)]
  fresh = dataset(names, **BUCKETS)
  for step in (100, 3, 63, 64, 149):  # in the middle of windows too
    same(fresh.batch(step), first[step])
  same(next(dataset(names, **BUCKETS).batches(77)), first[77])
  digests = {
    dataset(names, length_buckets=x).fingerprint()
    for x in (None, [9, 12, 23], [12, 23])
  }
  assert len(digests) == 3
  assert dataset(names, **BUCKETS).fingerprint() == whole.fingerprint()


def test_shapes_to_come(tasks):
  found = dataset(['big', 'long'], **BUCKETS)
  counts = collections.Counter(lengths_of(found, range(5, 40)))
  shapes = found.shapes(5, 40)
  assert set(shapes) == {9, 12, 23}
  assert shapes == {n: counts[n] for n in (9, 12, 23)}
  assert list(shapes.values()) == sorted(shapes.values(), reverse=True)
  assert dataset('big').shapes(5, 40) == {23: 35}


def test_padding_share_with_buckets(tasks):
  found = dataset('big', batch_size=47, **BUCKETS)
  batch = found.batch(0)
  assert found.padding_share == pytest.approx(
    {
      'inputs': np.mean(batch['encoder_input_tokens'] == 0),
      'targets': np.mean(batch['decoder_target_tokens'] == 0),
    }
  )
  fewer = dataset(['big', 'long'], **BUCKETS).padding_share['inputs']
  assert fewer < dataset(['big', 'long']).padding_share['inputs']
