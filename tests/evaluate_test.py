"""Evaluation: scores, texts, metrics, and several tasks at once."""

from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import data, evaluate, predict
from prompt_jax.batches import assemble
from prompt_jax.data import Dataset
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator, Result, flat_metrics
from prompt_jax.evaluation_set import rows_in_memory
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import local
from prompt_jax.training import state as states
from tests import tiny

LENGTHS = {'inputs': 13, 'targets': 5}


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  """Two tasks of the same rows; the second has a closed list, too."""
  folder = tmp_path_factory.mktemp('evaluate')
  tiny.write_files(folder)
  files = {n: str(folder / f'{n}.tsv') for n in ('train', 'validation')}
  settings = {'files': files, 'labels': ['no', 'yes'], 'vocabulary': 'bytes'}
  names = 'evaluate_one', 'evaluate_two'
  return [local.FileTask(name=name, **settings) for name in names]


@pytest.fixture(scope='module')
def sets(tasks):
  return [
    data.evaluation(task, 'validation', LENGTHS, 8, i, vocabulary='bytes')
    for i, task in enumerate(tasks)
  ]


@pytest.fixture(scope='module')
def untrained():
  model = tiny.model()
  shapes, _ = states.abstract(model)
  return model, states.initial(model, jax.random.key(7), list(shapes))


@pytest.fixture
def constant(monkeypatch):
  """Ranking that always takes the last label, and compiles at once."""
  last = lambda model: (
    lambda flat, batch, labels: jnp.broadcast_to(
      jnp.arange(labels.shape[0], dtype=jnp.float32),
      (batch['task_ids'].shape[0], labels.shape[0]),
    )
  )
  monkeypatch.setattr(predict, 'ranker', last)
  return types.SimpleNamespace(config=None)


@pytest.mark.slow
def test_rank_scores_are_teacher_forced_sums(sets, untrained):
  model, flat = untrained
  (result,) = Evaluator(model, sets[:1])(flat)
  assert len(result.predictions) == len(sets[0]) == 10  # 8, then 2 and padding
  assert result.metrics['outside'] == 0.0
  vocabulary = sets[0].provider.output_features['targets'].vocabulary
  labels = evaluate.label_tokens(vocabulary, ['no', 'yes'])
  scorer = jax.jit(predict.scorer(model))
  inputs = sets[0].tokens.inputs.pad(np.arange(10), 13)
  for i, label in enumerate(['no', 'yes']):
    rows = np.broadcast_to(labels[i], (10, labels.shape[1]))
    sums = scorer(flat, assemble(inputs, rows, np.zeros(10, np.int32)))
    scores = [row['scores'][label] for row in result.predictions]
    np.testing.assert_allclose(scores, sums, rtol=1e-5, atol=1e-5)
  for row in result.predictions:
    assert row['prediction'] == max(row['scores'], key=row['scores'].get)
  right = [row['target'] == row['prediction'] for row in result.predictions]
  assert result.metrics['accuracy'] == pytest.approx(100 * np.mean(right))


@pytest.mark.slow
def test_the_order_of_batches_does_not_show(sets, untrained, monkeypatch):
  model, flat = untrained
  (sorted_,) = Evaluator(model, sets[:1])(flat)
  asked = []

  def plain(each):
    for start, batch in zip(range(0, 10, 8), each.batches(), strict=True):
      asked.append(batch['encoder_input_tokens'].shape)
      yield np.arange(start, min(start + 8, 10)), batch

  monkeypatch.setattr(type(sets[0]), 'by_length', plain)
  (in_order,) = Evaluator(model, sets[:1])(flat)
  assert asked == [(8, 13), (8, 13)]
  assert in_order.metrics == sorted_.metrics
  for one, two in zip(in_order.predictions, sorted_.predictions, strict=True):
    for name in 'input', 'target', 'prediction':
      assert one[name] == two[name]
    scores = [list(x['scores'].values()) for x in (one, two)]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_an_untrained_model_decodes_what_is_no_label(sets, untrained):
  model, flat = untrained
  (result,) = Evaluator(model, sets[:1], 'generate')(flat)
  texts = [row['prediction'] for row in result.predictions]
  outside = np.mean([text not in ('no', 'yes') for text in texts])
  assert len(texts) == 10 and outside > 0
  assert result.metrics['outside'] == pytest.approx(100 * outside)
  assert 'scores' not in result.predictions[0]


def test_threads_take_turns(sets, constant, monkeypatch):
  evaluator = Evaluator(constant, sets[:1])
  texts, inside, seen = evaluator._texts, [], []

  def slow(*args):
    inside.append(None)
    seen.append(len(inside))
    time.sleep(0.2)  # long enough for the other to come in
    found = texts(*args)
    inside.pop()
    return found

  monkeypatch.setattr(evaluator, '_texts', slow)
  with ThreadPoolExecutor(2) as pool:
    one, two = pool.map(evaluator, [{}, {}])
  assert seen == [1, 1]
  assert one == two == evaluator({})


def test_tasks_have_their_own_metrics_and_a_mean(sets, constant):
  results = Evaluator(constant, sets)({})
  assert [r.task for r in results] == ['evaluate_one', 'evaluate_two']
  share = 100 * sets[0].targets_pretokenized.count('yes') / 10
  found = flat_metrics(results)
  assert found == {
    **{f'evaluate_{n}/accuracy': share for n in ('one', 'two')},
    **{f'evaluate_{n}/outside': 0.0 for n in ('one', 'two')},
    **{'accuracy': share, 'outside': 0.0},
  }
  assert flat_metrics(results[:1]) == {'accuracy': share, 'outside': 0.0}


def test_mean_over_tasks():
  of = lambda task, **metrics: Result(task, 'test', metrics, [])
  found = flat_metrics([of('a', accuracy=50.0, f1=1.0), of('b', accuracy=75.0)])
  assert found['accuracy'] == 62.5 and found['f1'] == 1.0


def test_labels_can_be_given(sets, constant):
  (result,) = Evaluator(constant, sets[:1], labels=['yes', 'no', 'so'])({})
  assert set(result.predictions[0]['scores']) == {'yes', 'no', 'so'}
  assert {row['prediction'] for row in result.predictions} == {'so'}
  assert result.metrics == {'accuracy': 0.0, 'outside': 100.0}


def test_reports_are_of_labels(tasks, constant):
  words = {'yes': 'good', 'no': 'bad'}
  task = dataclasses.replace(
    tasks[0], name='evaluate_words', verbalizer=words, metric='f1_macro'
  )
  found = data.evaluation(task, 'validation', LENGTHS, 8, vocabulary='bytes')
  assert found.labels == ['bad', 'good']  # what the model is asked
  (result,) = Evaluator(constant, [found])({})
  assert {row['prediction'] for row in result.predictions} == {'yes'}
  targets = [row['target'] for row in result.predictions]
  assert set(targets) == {'yes', 'no'}
  assert list(result.predictions[0]['scores']) == ['no', 'yes']
  share = targets.count('yes') / len(targets)
  f1 = 2 * share / (1 + share)  # recall 1; of 'no' it is 0
  assert result.metrics['f1_macro'] == pytest.approx(100 * f1 / 2)
  with pytest.raises(UserError, match="LABELS hold 'yes', a label of task"):
    Evaluator(constant, [found], labels=['yes', 'bad'])


def test_stopped_between_batches(sets, constant):
  asked = []
  stop = lambda: bool(asked.append(1)) or len(asked) > 1
  assert Evaluator(constant, sets, stop=stop)({}) is None
  assert len(asked) == 2


def test_what_cannot_be_evaluated(sets, constant):
  with pytest.raises(UserError, match="EVAL_MODE is 'score'; expected one of"):
    Evaluator(constant, sets, 'score')
  free = types.SimpleNamespace(task='summaries', labels=None, batch_size=8)
  with pytest.raises(
    UserError, match="'summaries' has no closed list"
  ) as caught:
    Evaluator(constant, [free])
  assert 'Give LABELS' in str(caught.value)


def test_sets_of_a_dataset(tasks):
  dataset = Dataset(tasks, LENGTHS, vocabulary='bytes')
  found = evaluate.evaluation_sets(dataset, batch_size=8, max_batches=1)
  assert [(s.task, s.task_id, len(s)) for s in found] == [
    ('evaluate_one', 0, 8),
    ('evaluate_two', 1, 8),
  ]
  small = evaluate.evaluation_sets(
    dataset, batch_size='auto', config=tiny.model().config
  )
  rows = rows_in_memory(tiny.model().config, LENGTHS)
  assert small[0].batch_size == rows > 256 and rows % 8 == 0
  large = T5Config(32128, 1024, 64, 2816, 16, 24, 24)
  rows = rows_in_memory(large, {'inputs': 512, 'targets': 8})
  assert rows % 8 == 0 and rows < 64
  with pytest.raises(UserError, match="is 'auto', which needs the shapes"):
    evaluate.evaluation_sets(dataset, batch_size='auto')
  with pytest.raises(UserError, match="has a split 'test'; expected one of"):
    evaluate.evaluation_sets(dataset, 'test')


@pytest.mark.parametrize('attention', ['sub', 'token'])
def test_what_a_prompt_is_mixed_from_is_told(
  attention, sets, constant, tmp_path
):
  files = [tmp_path / f'{name}.npy' for name in ('mnli', 'sst2')]
  rng = np.random.default_rng(61)
  for file in files:
    np.save(file, rng.normal(size=(3, 7)).astype(np.float32))
  bank = functools.partial(Bank, files, 3)
  target = functools.partial(Prompt, 3)
  source = functools.partial(Attempt, target, bank, attention, 5, 0.1)
  model = tiny.model().clone(encoder_prompt=source)
  shapes, _ = states.abstract(model)
  flat = states.initial(model, jax.random.key(7), list(shapes))
  (result,) = Evaluator(model, sets[:1])(flat)
  names = ('mnli', 'sst2', 'target')
  found = [row['weights'] for row in result.predictions]
  assert len(found) == 10 and all(tuple(each) == names for each in found)
  np.testing.assert_allclose([sum(x.values()) for x in found], 1, rtol=1e-5)
  assert len({each['mnli'] for each in found}) > 1  # by the input
  for name, mean in result.told()['weights'].items():
    assert mean == pytest.approx(np.mean([each[name] for each in found]))


def test_a_prompt_that_mixes_nothing_has_no_weights(sets, constant):
  (result,) = Evaluator(constant, sets[:1])({})
  assert result.weights == {} and 'weights' not in result.told()
  assert all('weights' not in row for row in result.predictions)
