"""Datasets: order from the seed alone, resume, mixing, evaluation."""

import collections
import functools
import itertools

from absl import logging
import gin
import numpy as np
import pytest

from prompt_jax import batches
from prompt_jax.errors import UserError

seqio = pytest.importorskip('seqio')

import sentencepiece  # noqa: E402
import tensorflow as tf  # noqa: E402

from prompt_jax import data  # noqa: E402
from prompt_jax.tasks import features, local  # noqa: E402

LENGTHS = {'inputs': 23, 'targets': 5}
SIZES = {'big': 47, 'small': 7, 'long': 13}
WORDS = ['river', 'stone', 'cloud', 'apple', 'green', 'seven', 'north']


def sentence(task, i):
  """Distinct texts: the words spell i; the task 'long' overflows LENGTHS."""
  words = [WORDS[i % 7], WORDS[i // 7 % 7], task]
  return ' '.join(words * (5 if task == 'long' else 1))


@pytest.fixture(scope='session')
def vocabulary(tmp_path_factory):
  """A vocabulary of 67 pieces, trained on the sentences of this file."""
  folder = tmp_path_factory.mktemp('vocabulary')
  lines = [sentence(t, i) for t, n in SIZES.items() for i in range(n)]
  (folder / 'text.txt').write_text('\n'.join([*lines, 'odd even'] * 3))
  sentencepiece.SentencePieceTrainer.train(
    input=str(folder / 'text.txt'),
    model_prefix=str(folder / 'tiny'),
    **{'vocab_size': 67, 'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1},
    **{'hard_vocab_limit': False, 'minloglevel': 2},
  )
  return features.vocabulary(str(folder / 'tiny.model'))


@pytest.fixture(scope='session')
def tasks(vocabulary, tmp_path_factory):
  """Registers the tasks of SIZES and two mixtures of them."""
  folder = tmp_path_factory.mktemp('files')
  for name, n in SIZES.items():
    rows = [f'{sentence(name, i)}\t{("even", "odd")[i % 2]}' for i in range(n)]
    path = folder / f'{name}.tsv'
    path.write_text('\n'.join(['text\tlabel', *rows]) + '\n')
    files = {'train': str(path), 'validation': str(path)}
    local.register(
      local.FileTask(name=name, files=files, labels=['even', 'odd']), vocabulary
    )
  seqio.MixtureRegistry.add('pair', [('big', 1.0), ('small', lambda t: 3.0)])
  seqio.MixtureRegistry.add('nested', [('pair', lambda m: 2.0), ('long', 6.0)])
  yield vocabulary
  for name in ('pair', 'nested'):
    seqio.MixtureRegistry.remove(name)
  for name in SIZES:
    seqio.TaskRegistry.remove(name)


def dataset(name='big', **settings):
  settings = {'batch_size': 5, 'seed': 17} | settings
  return data.Dataset(name, LENGTHS, **settings)


def keys(batch, task=None):
  """One value an example: its input tokens as bytes."""
  rows = batch['encoder_input_tokens']
  if task is not None:
    rows = rows[batch['task_ids'] == task]
  return [row.tobytes() for row in rows]


def seen(found, steps, task=None):
  return list(
    itertools.chain.from_iterable(keys(found.batch(s), task) for s in steps)
  )


def same(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_batch_holds_the_rows_of_the_file(tasks):
  batch = dataset().batch(0)
  row = batch['encoder_input_tokens'][2]
  texts = {sentence('big', i): ('even', 'odd')[i % 2] for i in range(47)}
  assert row[row > 0][-1] == 1
  label = texts[tasks.decode(row[row > 0].tolist())]
  target = batch['decoder_target_tokens'][2]
  assert target[target > 0].tolist() == [*tasks.encode(label), 1][:5]
  shifted = batch['decoder_input_tokens'][2]
  assert shifted[0] == 0 and shifted[1:].tolist() == target[:-1].tolist()
  np.testing.assert_array_equal(
    batch['decoder_loss_weights'], batch['decoder_target_tokens'] > 0
  )
  shapes = {name: (a.shape, a.dtype.name) for name, a in batch.items()}
  assert shapes == {
    'encoder_input_tokens': ((5, 23), 'int32'),
    'decoder_input_tokens': ((5, 5), 'int32'),
    'decoder_target_tokens': ((5, 5), 'int32'),
    'decoder_loss_weights': ((5, 5), 'float32'),
    'task_ids': ((5,), 'int32'),
  }


def test_every_example_once_an_epoch_in_a_new_order(tasks):
  found = dataset()
  assert (found.num_examples, found.steps_per_epoch) == (47, 10)
  order = seen(found, range(47))  # five epochs
  epochs = [order[i : i + 47] for i in range(0, 235, 47)]
  assert all(len(set(epoch)) == 47 for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_larger_than_the_task_spans_epochs(tasks):
  counts = collections.Counter(keys(dataset('small', batch_size=31).batch(2)))
  assert len(counts) == 7 and max(counts.values()) <= 6


def test_resume_and_seed(tasks):
  whole = dataset(['big', 'small', 'long'])
  first = [whole.batch(step) for step in range(1000)]
  fresh = dataset(['big', 'small', 'long'])  # block 0 holds steps 0 to 818
  for step in (999, 0, 818, 819, 7):
    same(fresh.batch(step), first[step])
  same(next(fresh.batches(500)), first[500])
  other = dataset(['big', 'small', 'long'], seed=18)
  assert seen(other, range(9)) != seen(fresh, range(9))
  assert other.fingerprint() != fresh.fingerprint()
  assert dataset(['big', 'small', 'long']).fingerprint() == fresh.fingerprint()


def test_mixing_follows_rates_and_keeps_epochs(tasks):
  found = dataset(['small', 'big'], rates={'big': 1, 'small': 3})
  assert found.tasks == ('small', 'big')
  ids = np.concatenate([found.batch(s)['task_ids'] for s in range(800)])
  # 4,000 draws at 3/4: standard deviation 0.0068
  assert abs(np.mean(ids == 0) - 0.75) < 4 * 0.0068
  for task, n in ((0, 7), (1, 47)):
    order = seen(found, range(300), task)
    epochs = [order[i : i + n] for i in range(0, len(order) - n, n)]
    assert epochs and all(len(set(epoch)) == n for epoch in epochs)


def test_default_rates(tasks):
  assert dataset(['big', 'small'])._rates == pytest.approx(
    {'big': 47 / 54, 'small': 7 / 54}
  )
  assert dataset('pair')._rates == {'big': 0.25, 'small': 0.75}
  assert dataset('nested')._rates == pytest.approx(
    {'big': 1 / 16, 'long': 12 / 16, 'small': 3 / 16}
  )
  assert dataset(['pair', 'long'])._rates == pytest.approx(
    {'big': 13.5 / 67, 'small': 40.5 / 67, 'long': 13 / 67}
  )
  assert dataset('pair', rates={'big': 1, 'small': 1})._rates['big'] == 0.5


def test_a_task_keeps_its_order_beside_others(tasks):
  alone = seen(dataset('small', batch_size=7), range(2))
  mixed = seen(dataset(['big', 'small'], batch_size=7), range(60), task=1)
  assert mixed[:14] == alone


def test_few_shot(tasks):
  found = dataset(['big', 'long'], shots=3, shots_seed=1)
  assert found.num_examples == 12
  for chosen in found.chosen.values():
    assert chosen == sorted(set(chosen))
    assert [i % 2 for i in chosen].count(0) == 3 and len(chosen) == 6
  assert found._rates == {'big': 0.5, 'long': 0.5}
  again = dataset(['long', 'big'], shots=3, shots_seed=1, seed=99)
  assert again.chosen == found.chosen  # the order's seed is another stream
  other = dataset(['big', 'long'], shots=3, shots_seed=2)
  assert other.chosen != found.chosen
  more = dataset('big', shots=5, shots_seed=1)
  assert set(found.chosen['big']) < set(more.chosen['big'])
  texts = {sentence('big', i) for i in found.chosen['big']}
  rows = seen(dataset('big', shots=3, shots_seed=1), range(3))
  decode = lambda row: tasks.decode(np.frombuffer(row, np.int32).tolist())
  assert {decode(row) for row in rows} == texts
  with pytest.raises(UserError, match="the class 'odd' of task 'small' has 3"):
    _ = dataset('small', shots=4).chosen


def test_cut_examples_keep_eos_and_are_counted(tasks, caplog):
  with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
    batch = dataset('long').batch(0)
  cut = '13 of 13 examples of long were cut at 23 tokens (inputs)'
  assert [r.getMessage() for r in caplog.records].count(cut) == 1
  assert (batch['encoder_input_tokens'][:, -1] == 1).all()
  assert (batch['encoder_input_tokens'][:, :-1] > 1).all()


def test_padding_share(tasks):
  found = dataset('small', batch_size=7)
  batch = found.batch(0)
  assert found.padding_share == pytest.approx(
    {
      'inputs': np.mean(batch['encoder_input_tokens'] == 0),
      'targets': np.mean(batch['decoder_target_tokens'] == 0),
    }
  )


BUCKETS = {'length_buckets': [9, 12, 23]}


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


def test_rows_of_hosts_make_the_batch(tasks):
  batch = dataset(batch_size=6).batch(3)
  parts = [batches.rows(batch, i, 3) for i in range(3)]
  for name in batch:
    joined = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(joined, batch[name])
  with pytest.raises(UserError, match='6 examples .* 4 hosts.*BATCH_SIZE=8'):
    batches.rows(batch, 0, 4)


def test_evaluation_is_in_file_order_and_one_shape(tasks):
  found = data.evaluation('big', 'validation', LENGTHS, 7, task_id=2)
  assert found.inputs_pretokenized == [sentence('big', i) for i in range(47)]
  assert found.targets_pretokenized[:3] == ['even', 'odd', 'even']
  assert found.labels == ['even', 'odd'] and len(found) == 47
  held = list(found.batches())
  assert len(held) == 7
  assert all(b['encoder_input_tokens'].shape == (7, 23) for b in held)
  rows = np.concatenate([b['encoder_input_tokens'] for b in held])[:47]
  decoded = [tasks.decode(row[row > 0].tolist()) for row in rows]
  assert decoded == found.inputs_pretokenized
  weights = held[-1]['decoder_loss_weights'].sum(axis=1)
  assert (weights[:5] > 0).all() and not weights[5:].any()
  assert held[-1]['encoder_input_tokens'][5:].sum(axis=1).tolist() == [1] * 2
  assert (held[0]['task_ids'] == 2).all()
  few = data.evaluation('big', 'train', LENGTHS, 7, max_examples=3)
  assert len(few) == 3 and len(list(few.batches())) == 1


def test_evaluation_by_length_holds_every_example_once(tasks):
  found = data.evaluation('big', 'validation', LENGTHS, 2)
  rows, shapes, filled = [], [], 0
  for which, batch in found.by_length():
    tokens = batch['encoder_input_tokens']
    rows += which.tolist()
    shapes.append(tokens.shape[1])
    filled += len(tokens) - len(which)
    for row, example in zip(tokens, which, strict=False):
      ids = found.tokens.inputs[example]
      assert row[row > 0].tolist() == ids.tolist()
  assert sorted(rows) == list(range(47)) and filled == 1
  assert shapes == sorted(shapes)


def count_up(split, shuffle_files):
  """A source that takes no seed and whose size SeqIO is not told."""
  del split, shuffle_files
  texts = [f'{WORDS[i % 7]} {WORDS[i // 7]}' for i in range(29)]
  return tf.data.Dataset.from_tensor_slices({'inputs': texts, 'targets': texts})


@pytest.fixture
def unsized(tasks):
  for name, source in {
    'unsized': count_up,
    'nothing': lambda split, shuffle_files: count_up('', 0).take(0),
  }.items():
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(source, splits=['train']),
      preprocessors=[
        functools.partial(
          seqio.preprocessors.tokenize, copy_pretokenized=False
        ),
        seqio.preprocessors.append_eos,
      ],
      output_features=features.output_features(tasks),
    )
  yield
  seqio.TaskRegistry.remove('unsized')
  seqio.TaskRegistry.remove('nothing')


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


def test_gin_configures_a_dataset_over_a_file(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('text,label\nab,c\n')
  with gin.unlock_config():
    gin.parse_config(f"""
      from __gin__ import dynamic_registration
      from prompt_jax import data
      from prompt_jax.tasks import local
      data.Dataset.mixture_or_task_name = @local.FileTask()
      data.Dataset.task_feature_lengths = {{'inputs': 5, 'targets': 2}}
      data.Dataset.batch_size = 3
      local.FileTask.name = 'from_gin'
      local.FileTask.files = {{'train': '{path}'}}
      local.FileTask.labels = ['c', 'd']
      local.FileTask.vocabulary = 'bytes'
    """)
  found = gin.get_configurable(data.Dataset)()
  assert found.tasks == ('from_gin',)
  assert found.batch(4)['decoder_target_tokens'].tolist() == [[102, 1]] * 3
  gin.clear_config()
  seqio.TaskRegistry.remove('from_gin')


def test_file_task_in_place_of_a_name(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "ab", "label": "c"}\n')
  task = local.FileTask('inline', {'train': str(path)}, vocabulary='bytes')
  batch = data.Dataset(task, LENGTHS, batch_size=2).batch(0)
  expected = [ord('a') + 3, ord('b') + 3, 1] + [0] * 20
  assert batch['encoder_input_tokens'].tolist() == [expected] * 2
  seqio.TaskRegistry.remove('inline')


ERRORS = [
  ('bgi', {}, "called 'bgi'.*Nearest: big"),
  (['big', 'big'], {}, "'big' is listed twice"),
  ([], {}, 'mixture_or_task_name is empty'),
  ('big', {'module': 'no.such'}, "no module 'no.such'"),
  ('big', {'split': 'tset'}, "no split 'tset'; expected one of train, valid"),
  ('big', {'batch_size': 0}, 'batch_size is 0'),
  ('big', {'length_buckets': [9]}, 'LENGTH_BUCKETS ends with 9'),
  ('big', {'shots': -1}, 'shots is -1'),
  ('big', {'seed': None}, 'seed is None'),
  ('nothing', {'max_in_memory': 10}, "'nothing' ended"),
  (['big', 'small'], {'rates': {'big': 1}}, "'small' is on one side only"),
  ('big', {'rates': {'big': 0}}, "rate of task 'big' is 0.0"),
]


@pytest.mark.parametrize('name, settings, message', ERRORS)
def test_mistakes(unsized, name, settings, message):
  with pytest.raises(UserError, match=message):
    next(dataset(name, **settings).batches())


def test_mistakes_of_lengths_and_evaluation(unsized):
  with pytest.raises(UserError, match="gives 'targets' as None"):
    data.Dataset('big', {'inputs': 5})
  with pytest.raises(UserError, match='is a mixture; .* tasks: big, small'):
    data.evaluation('pair', 'train', LENGTHS)
  with pytest.raises(UserError, match="'train' of task 'nothing' is empty"):
    data.evaluation('nothing', 'train', LENGTHS)


def test_vocabularies_may_not_differ(tasks, tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_text('text\tlabel\na\tb\n')
  task = local.FileTask('bytewise', {'train': str(path)}, vocabulary='bytes')
  with pytest.raises(UserError, match="'big' and 'bytewise' have different"):
    _ = dataset(['big', task]).tasks
  seqio.TaskRegistry.remove('bytewise')
