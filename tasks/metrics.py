"""Metrics over texts: fn(targets, predictions) -> {name: float}.

Every value is in percent, correlations and Matthews' coefficient too
(100 x r), as the T5 metrics report them. A classification metric takes the
closed list of target texts as `labels`; a prediction outside the list is
wrong, and `outside` is the share of such predictions in percent. Without a
list, the labels are the distinct targets. Each function has SeqIO's form.
"""

from collections.abc import Sequence
import functools
import re
import string

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from prompt_jax.errors import UserError
from prompt_jax.params import nearest

NOT_A_NUMBER = -1.0  # T5's string_to_float gives -1 for a text without number


def _check(targets: Sequence, predictions: Sequence) -> None:
  """Raises UserError unless both are of one length, at least one."""
  if len(targets) != len(predictions) or not len(targets):
    raise UserError(
      f'A metric got {len(targets)} targets and {len(predictions)} '
      'predictions; expected as many of each, at least one. Evaluate a split '
      'that has examples.'
    )


def _classes(targets, predictions, labels):
  """(int targets, int predictions with -1 = outside, labels, percent outside).

  A target outside a given list is an error: it could never be right.
  """
  _check(targets, predictions)
  labels = list(labels) if labels else sorted(set(targets))
  index = {label: i for i, label in enumerate(labels)}
  unknown = sorted(set(targets) - set(labels))
  if unknown:
    raise UserError(
      f'Target {unknown[0]!r} is not among the labels {labels}; expected '
      f'targets from that list. Nearest: {nearest(unknown[0], labels, 1)[0]!r}.'
    )
  wanted = np.array([index[target] for target in targets])
  got = np.array([index.get(prediction, -1) for prediction in predictions])
  return wanted, got, labels, 100.0 * float(np.mean(got < 0))


def accuracy(targets, predictions, labels=None) -> dict[str, float]:
  """Share of predictions equal to their target.

  accuracy = 100 * mean(prediction == target)

  Args:
    targets, predictions: texts.
    labels: the closed list of target texts, or None.
  Returns: {'accuracy', 'outside'} in percent.
  Raises: UserError on no examples or unequal numbers.
  """
  wanted, got, _, outside = _classes(targets, predictions, labels)
  share = 100.0 * float(np.mean(wanted == got))
  return {'accuracy': share, 'outside': outside}


def f1_macro(targets, predictions, labels=None) -> dict[str, float]:
  """Unweighted mean over the labels of each label's F1.

  f1 = 100 * mean_l 2 precision_l recall_l / (precision_l + recall_l)

  Args:
    targets, predictions: texts.
    labels: the closed list of target texts, or None.
  Returns: {'f1_macro', 'outside'} in percent. A label that occurs neither
    among the targets nor the predictions has F1 0, as in T5.
  Raises: UserError on no examples or unequal numbers.
  Source: mean_multiclass_f1 of the T5 metrics.
  """
  wanted, got, labels, outside = _classes(targets, predictions, labels)
  score = sklearn_metrics.f1_score(
    wanted, got, labels=range(len(labels)), average='macro', zero_division=0
  )
  return {'f1_macro': 100.0 * float(score), 'outside': outside}


def f1_binary(targets, predictions, labels=None) -> dict[str, float]:
  """F1 of the second of two labels.

  f1 = 100 * 2 precision recall / (precision + recall)

  Args:
    targets, predictions: texts.
    labels: (negative, positive) texts; None: the two targets, sorted.
  Returns: {'f1_binary', 'outside'} in percent. A prediction outside the
    labels counts as the label that is wrong.
  Raises: UserError if there are not exactly two labels.
  Source: f1_score_with_invalid of the T5 metrics.
  """
  wanted, got, labels, outside = _classes(targets, predictions, labels)
  if len(labels) != 2:
    raise UserError(
      f'f1_binary got {len(labels)} labels {labels}; expected two, the '
      "positive one last. Set the task's labels, or use f1_macro."
    )
  got = np.where(got < 0, 1 - wanted, got)
  score = sklearn_metrics.f1_score(wanted, got, zero_division=0)
  return {'f1_binary': 100.0 * float(score), 'outside': outside}


def matthews(targets, predictions, labels=None) -> dict[str, float]:
  """Matthews' correlation of two labelings, for any number of labels.

  Args:
    targets, predictions: texts.
    labels: the closed list of target texts, or None.
  Returns: {'matthews', 'outside'} in percent (100 x coefficient); predictions
    outside the labels are a class of their own, so always wrong. A constant
    answer gives 0.
  Raises: UserError on no examples or unequal numbers.
  Source: Gorodkin 2004; Warstadt et al. 2019 for CoLA.
  """
  wanted, got, _, outside = _classes(targets, predictions, labels)
  if len(set(wanted)) < 2 or len(set(got)) < 2:  # 0 / 0 in the formula
    return {'matthews': 0.0, 'outside': outside}
  score = sklearn_metrics.matthews_corrcoef(wanted, got)
  return {'matthews': 100.0 * float(score), 'outside': outside}


def _number(text) -> float:
  """The finite number that a text is, else NaN."""
  try:
    value = float(text)
  except ValueError:
    return np.nan
  return value if np.isfinite(value) else np.nan


def _correlation(name, function, targets, predictions) -> dict[str, float]:
  _check(targets, predictions)
  wanted = np.array([_number(target) for target in targets])
  if np.isnan(wanted).any():
    bad = targets[int(np.argmax(np.isnan(wanted)))]
    raise UserError(
      f'{name} got the target {bad!r}; expected numbers. Use accuracy or '
      'exact_match for a task whose targets are words.'
    )
  got = np.array([_number(prediction) for prediction in predictions])
  outside = 100.0 * float(np.mean(np.isnan(got)))
  got = np.where(np.isnan(got), NOT_A_NUMBER, got)
  if np.ptp(wanted) == 0 or np.ptp(got) == 0:  # 0 / 0 in the formula
    return {name: 0.0, 'outside': outside}
  return {name: 100.0 * float(function(wanted, got)[0]), 'outside': outside}


def pearson(targets, predictions) -> dict[str, float]:
  """Pearson's correlation of the numbers that the texts are.

  Args:
    targets, predictions: texts of numbers; a prediction that is none counts
      as -1 (T5's string_to_float) and towards `outside`.
  Returns: {'pearson', 'outside'} in percent (100 x r); 0 where either side
    is constant.
  Raises: UserError if a target is not a number.
  """
  return _correlation('pearson', stats.pearsonr, targets, predictions)


def spearman(targets, predictions) -> dict[str, float]:
  """Spearman's rank correlation of the numbers that the texts are.

  Args:
    targets, predictions: as for `pearson`.
  Returns: {'spearman', 'outside'} in percent (100 x rho); 0 where either
    side is constant.
  Raises: UserError if a target is not a number.
  """
  return _correlation('spearman', stats.spearmanr, targets, predictions)


def normalise(text: str) -> str:
  """Lower case, no ASCII punctuation, no a/an/the, single blanks.

  Source: Rajpurkar et al. 2016, the SQuAD evaluation script.
  """
  text = text.lower().translate(str.maketrans('', '', string.punctuation))
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def exact_match(targets, predictions) -> dict[str, float]:
  """Share of predictions equal to a target once both are normalised.

  Args:
    targets: texts, or lists of equally good texts.
    predictions: texts.
  Returns: {'exact_match'} in percent.
  Raises: UserError on no examples or unequal numbers.
  Source: Rajpurkar et al. 2016, section 6.1.
  """
  _check(targets, predictions)
  hits = []
  for target, prediction in zip(targets, predictions, strict=True):
    answers = [target] if isinstance(target, str) else target
    hits.append(normalise(prediction) in {normalise(a) for a in answers})
  return {'exact_match': 100.0 * float(np.mean(hits))}


METRICS = {
  function.__name__: function
  for function in (
    accuracy,
    f1_macro,
    f1_binary,
    exact_match,
    matthews,
    pearson,
    spearman,
  )
}
LABELLED = ('accuracy', 'f1_macro', 'f1_binary', 'matthews')


def bind(name: str, labels=None):
  """The metric of a name, told the closed list of target texts.

  Args:
    name: a key of METRICS.
    labels: target texts, or None.
  Returns: fn(targets, predictions) -> {name: percent}.
  Raises: UserError if there is no such metric (shows the nearest).
  """
  if name not in METRICS:
    raise UserError(
      f'There is no metric {name!r}; expected one of {", ".join(METRICS)}. '
      f'Nearest: {nearest(name, list(METRICS), 1)[0]}.'
    )
  if name in LABELLED and labels:
    return functools.partial(METRICS[name], labels=tuple(labels))
  return METRICS[name]
