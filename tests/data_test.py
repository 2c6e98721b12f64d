"""Datasets: order from the seed alone, resume, mixing, evaluation."""

import collections

from absl import logging
import gin
import numpy as np
import pytest

from prompt_jax import batches
from prompt_jax.errors import UserError

seqio = pytest.importorskip('seqio')


from prompt_jax import data  # noqa: E402
from prompt_jax.tasks import local  # noqa: E402
from tests import counted  # noqa: E402
from tests.counted import (  # noqa: E402
  LENGTHS,
  dataset,
  keys,
  same,
  seen,
  sentence,
)

# fixtures of the tests below
tasks, vocabulary, unsized = counted.tasks, counted.vocabulary, counted.unsized


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
