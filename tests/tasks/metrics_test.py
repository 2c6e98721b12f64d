"""Metrics: the definitions by hand, percent, and what is outside the list."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import metrics

LABELS = ['no', 'maybe', 'yes']
TARGETS = ['no', 'yes', 'yes', 'maybe', 'no', 'yes', 'yes']
ANSWERS = ['no', 'yes', 'no', 'maybe', 'Yes', 'yes', 'what']


def test_accuracy_counts_outside_as_wrong():
  got = metrics.accuracy(TARGETS, ANSWERS, labels=LABELS)
  assert got == pytest.approx({'accuracy': 400 / 7, 'outside': 200 / 7})


def test_f1_macro_is_the_mean_over_labels():
  # no: 1 hit of 2 said, 2 wanted; maybe: 1 of 1, 1; yes: 2 of 2, 4
  expected = 100 * np.mean([1 / 2, 1.0, 2 * 1 * 0.5 / 1.5])
  got = metrics.f1_macro(TARGETS, ANSWERS, labels=LABELS)
  assert got['f1_macro'] == pytest.approx(expected)
  absent = metrics.f1_macro(TARGETS, ANSWERS, labels=[*LABELS, 'never'])
  assert absent['f1_macro'] == pytest.approx(expected * 3 / 4)


def test_f1_binary_takes_the_last_label_as_positive():
  targets, answers = list('aabbbb'), list('abbbxa')
  got = metrics.f1_binary(targets, answers, labels=['a', 'b'])
  # b: 2 hits; said 3; wanted 4 ('x' for b is a miss)
  assert got['f1_binary'] == pytest.approx(100 * 2 * 2 / (3 + 4))
  swapped = metrics.f1_binary(targets, answers, labels=['b', 'a'])
  # a: 1 hit; 'x' for b counts as a, so said 3; wanted 2
  assert swapped['f1_binary'] == pytest.approx(100 * 2 * 1 / (3 + 2))


def test_f1_binary_refuses_three_labels():
  with pytest.raises(UserError, match='got 3 labels .* use f1_macro'):
    metrics.f1_binary(TARGETS, ANSWERS, labels=LABELS)


def test_matthews_equals_the_two_by_two_formula():
  targets, answers = list('aaabbbb'), list('aabbbba')
  hits, rejects, alarms, misses = 3, 2, 1, 1
  expected = (hits * rejects - alarms * misses) / np.sqrt(4 * 4 * 3 * 3)
  got = metrics.matthews(targets, answers, labels=['a', 'b'])
  assert got['matthews'] == pytest.approx(100 * expected)
  assert metrics.matthews(targets, ['a'] * 7)['matthews'] == 0.0


def test_correlations_in_percent():
  targets = ['0.5', '1', '2.25', '-3', '4']
  got = ['1', '1.5', '2', '-9', '70']
  expected = np.corrcoef(np.float64(targets), np.float64(got))[0, 1]
  assert metrics.pearson(targets, got)['pearson'] == pytest.approx(
    100 * expected
  )
  assert metrics.spearman(targets, got)['spearman'] == pytest.approx(100)
  assert metrics.pearson(targets, ['3'] * 5)['pearson'] == 0.0


def test_a_prediction_that_is_no_number_counts_as_minus_one():
  targets = ['1', '2', '3', '5', '7']
  odd = metrics.pearson(targets, ['1', 'two', '3', 'nan', '7'])
  even = metrics.pearson(targets, ['1', '-1', '3', '-1', '7'])
  assert odd['pearson'] == pytest.approx(even['pearson'])
  assert (odd['outside'], even['outside']) == (40.0, 0.0)


def test_exact_match_normalises_and_takes_the_best_answer():
  targets = ['The  cat.', ['two', '2'], 'no', 'theme']
  got = metrics.exact_match(targets, ['a CAT', '2!', 'yes', 'me'])
  assert got == {'exact_match': 50.0}


@pytest.mark.parametrize('name', sorted(metrics.METRICS))
def test_every_metric_refuses_no_examples(name):
  with pytest.raises(UserError, match='0 targets and 0 predictions'):
    metrics.METRICS[name]([], [])


def test_errors_name_the_culprit():
  with pytest.raises(UserError, match="no metric 'acuracy'.*: accuracy"):
    metrics.bind('acuracy')
  with pytest.raises(UserError, match="pearson got the target 'yes'"):
    metrics.pearson(['yes', '1'], ['1', '1'])
  with pytest.raises(UserError, match="'positiv' is not among .*'positive'"):
    metrics.accuracy(['positiv'], ['x'], labels=['negative', 'positive'])


def test_bound_labels_reach_the_metric():
  bound = metrics.bind('accuracy', ['a', 'b', 'c'])
  assert bound(['a'], ['c'])['outside'] == 0.0
  assert metrics.bind('accuracy')(['a'], ['c'])['outside'] == 100.0
  assert metrics.bind('pearson', ['1', '2']) is metrics.pearson
