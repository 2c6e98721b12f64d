"""Losses over labels: formulas in NumPy, targets among the labels, errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.training import ranking
from prompt_jax.training.step import Call
from tests.prompts.small_model import batch_of_two, flat_of, model_of

WORDS = {'a': [7], 'b': [11, 13], 'c': [17, 19, 23]}


def test_criteria():
  scores = np.array([[0.3, -1.0, 0.5], [2.0, 0.1, -0.7]], np.float32)
  right = np.array([[True, False, False], [True, False, False]])
  got = ranking.hinge(jnp.asarray(scores), jnp.asarray(right), margin=0.2)
  np.testing.assert_allclose(got, [0.2 + 0.5 - 0.3, 0.2], rtol=1e-6)
  z = np.log(np.exp(scores).sum(axis=1))
  got = ranking.softmax(jnp.asarray(scores), jnp.asarray(right), 0.1)
  wanted = z - scores[:, 0] + 0.1 * z**2
  np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.fixture(scope='module')
def call():
  model = model_of()
  return Call(model, flat_of(model))


def _batch_of(targets):
  batch, rows = batch_of_two(), np.zeros((2, 5), np.int32)
  for row, ids in zip(rows, targets, strict=True):
    row[: len(ids) + 1] = [*ids, ranking.EOS]
  weights = jnp.asarray(rows > 0, jnp.float32)
  return {
    **batch,
    'decoder_target_tokens': jnp.asarray(rows),
    'decoder_loss_weights': weights,
  }


def test_a_target_counts_once_whether_it_is_among_the_labels_or_not(call):
  batch = _batch_of([WORDS['a'], WORDS['c']])
  every = ranking.Ranking(list(WORDS), WORDS.get, ranking.softmax)
  others = ranking.Ranking(['b'], WORDS.get, ranking.softmax)
  total, sums = every(call, batch)
  assert sums['weights'] == sums['sequences'] == 2
  assert sums['tokens'] == 2 + 4
  np.testing.assert_allclose(total, sums['loss'], rtol=1e-6)
  shuffled = ranking.Ranking(['c', 'a', 'b'], WORDS.get, ranking.softmax)
  np.testing.assert_allclose(shuffled(call, batch)[0], total, rtol=1e-5)
  assert others(call, batch)[0] < total  # fewer to lose against


def test_a_row_that_only_pads_costs_nothing(call):
  batch = _batch_of([WORDS['a'], WORDS['c']])
  padding = {
    **batch,
    'decoder_loss_weights': batch['decoder_loss_weights'].at[1].set(0.0),
  }
  one = {name: x[:1] for name, x in batch.items()}
  loss = ranking.Ranking(list(WORDS), WORDS.get)
  total, sums = loss(call, padding)
  np.testing.assert_allclose(total, loss(call, one)[0], rtol=1e-5)
  assert sums['weights'] == 1


def test_the_divisor_is_that_of_the_run(call):
  batch = _batch_of([WORDS['a'], WORDS['c']])
  loss = ranking.Ranking(list(WORDS), WORDS.get)
  total, _ = loss(call, batch)
  half, _ = loss(call, batch, normalizing=2.0)
  np.testing.assert_allclose(half, total / 2, rtol=1e-6)


def test_errors(call):
  batch = _batch_of([WORDS['a'], WORDS['c']])
  with pytest.raises(UserError, match='expected a list of strings'):
    ranking.Ranking([], WORDS.get)(call, batch)
  longer = ranking.Ranking(['a'], lambda text: [3] * 5)
  with pytest.raises(UserError, match='has 6 tokens; expected at most 5'):
    longer(call, batch)
  with pytest.raises(UserError, match='label_smoothing=0.1; expected 0'):
    ranking.Ranking(['a'], WORDS.get)(call, batch, label_smoothing=0.1)
