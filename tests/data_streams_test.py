"""Tasks too large for memory, or of unknown size, and offline caches."""

import itertools

import numpy as np
import pytest

from prompt_jax.errors import UserError

seqio = pytest.importorskip('seqio')


from prompt_jax import data  # noqa: E402
from tests import counted  # noqa: E402
from tests.counted import (  # noqa: E402
  BUCKETS,
  LENGTHS,
  dataset,
  keys,
  same,
  seen,
)

# fixtures of the tests below
tasks, vocabulary, unsized = counted.tasks, counted.vocabulary, counted.unsized


def test_streams_resume_by_seek(unsized):
  mixed = {'rates': {'unsized': 2, 'small': 1}}
  whole = dataset(['unsized', 'small'], **mixed)
  assert whole.num_examples is None and whole.steps_per_epoch is None
  first = list(itertools.islice(whole.batches(), 31))
  fresh = dataset(['unsized', 'small'], **mixed)
  with pytest.raises(ValueError, match=r'expected seek\(19\) first'):
    fresh.batch(19)
  fresh.seek(19)
  for step in range(19, 31):
    same(fresh.batch(step), first[step])
  fresh.seek(4)
  same(fresh.batch(4), first[4])
  with pytest.raises(UserError, match='shots=2 needs task .unsized. in memory'):
    _ = dataset('unsized', shots=2).chosen
  with pytest.raises(UserError, match="examples of 'unsized' is not known"):
    dataset(['unsized', 'small']).seek(0)


def test_streamed_batches_are_padded_to_a_bucket(unsized):
  found = dataset('unsized', **BUCKETS)
  plain = dataset('unsized')
  for one, two in itertools.islice(
    zip(found.batches(), plain.batches(), strict=False), 5
  ):
    a, b = one['encoder_input_tokens'], two['encoder_input_tokens']
    assert a.shape[1] in (9, 12, 23)
    np.testing.assert_array_equal(a, b[:, : a.shape[1]])
    assert not b[:, a.shape[1] :].any()
  auto = dataset('unsized', length_buckets='auto')  # nobody knows the lengths
  same(next(auto.batches()), next(plain.batches()))


def test_a_large_task_is_streamed(tasks):
  found = dataset('big', max_in_memory=46)
  assert found.num_examples == 47
  stream = list(itertools.islice(found.batches(), 4))
  known = set(seen(dataset('big'), range(11)))
  assert set(itertools.chain.from_iterable(map(keys, stream))) <= known


def test_caches_are_read_or_asked_for(unsized):
  found = dataset('big', use_cached=True)  # a FileTask has no cache to read
  same(found.batch(1), dataset('big').batch(1))
  task = seqio.TaskRegistry.get('unsized')
  steps = [seqio.CacheDatasetPlaceholder(), *task.preprocessors]
  seqio.TaskRegistry.add_provider(
    'cacheable', task.replace(name='cacheable', preprocessors=steps)
  )
  with pytest.raises(UserError, match="'cacheable' has no offline cache"):
    dataset('cacheable', use_cached=True).seek(0)
  seqio.TaskRegistry.remove('cacheable')


def test_texts_are_decoded_where_a_task_keeps_none(unsized):
  found = data.evaluation('unsized', 'train', LENGTHS)
  assert found.inputs_pretokenized[8] == 'stone stone'
  assert found.labels is None
