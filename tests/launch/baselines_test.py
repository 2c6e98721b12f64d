"""The two baselines on rows whose answer is known."""

import pytest

from launch import baselines
from prompt_jax.tasks import local
from tests.launch import small

TRAIN = [('good one', 'yes'), ('good two', 'yes'), ('bad one', 'no')]


def test_majority_is_that_of_train():
  test = [('x', 'no'), ('x', 'no'), ('x', 'yes')]
  assert baselines.majority(TRAIN, test) == pytest.approx(100 / 3)


def test_tfidf_reads_words_and_pairs():
  rows = [('not bad at all', 'yes'), ('bad not at all', 'no')] * 5
  found = baselines.tfidf(rows, rows, [(rows, rows)])
  # the words are the same: only pairs can tell
  assert found.test == 100


def test_tfidf_learns_the_task():
  train, test = (local.examples(small.task(), s) for s in ('train', 'test'))
  found = baselines.tfidf(train, test, [(train, test)])
  assert found.test > baselines.majority(train, test)


def test_strength_is_chosen_over_all_trials(monkeypatch):
  # With C=1 the first trial is right twice; with C=10 the second thrice.
  right = {(1.0, 'a'): 2, (10.0, 'a'): 1, (1.0, 'b'): 0, (10.0, 'b'): 3}
  right |= {(1.0, 'c'): 0, (10.0, 'c'): 1}
  monkeypatch.setattr(baselines, '_fit', lambda rows, strength: strength)
  monkeypatch.setattr(
    baselines, '_right', lambda model, rows: right[model, rows[0]]
  )
  found = baselines.tfidf('t', 'cc', [('t', 'aaa'), ('t', 'bbb')])
  assert found.strength == 10.0 and found.test == 50
  assert found.judged == pytest.approx({1.0: 100 / 3, 10.0: 200 / 3})


def test_the_smaller_strength_wins_a_tie():
  rows = [('good', 'yes'), ('bad', 'no')]
  found = baselines.tfidf(rows, rows, [(rows, rows)])
  assert found.strength == 1.0 and found.judged[1.0] == found.judged[10.0]
