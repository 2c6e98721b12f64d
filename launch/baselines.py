"""What a prompt is compared with: the most frequent class, and TF-IDF."""

from collections.abc import Sequence
import dataclasses

Pairs = Sequence[tuple[str, str]]  # (text, target)


def majority(train: Pairs, test: Pairs) -> float:
  """Test accuracy, in percent, of the most frequent class of train."""
  targets = [target for _, target in train]
  constant = max(sorted(set(targets)), key=targets.count)
  return 100 * sum(target == constant for _, target in test) / len(test)


@dataclasses.dataclass(frozen=True)
class Linear:
  """What TF-IDF with logistic regression reached.

  Attributes:
    test: accuracy in percent.
    strength: C of the logistic regression, the inverse of its penalty.
    judged: {C: accuracy in percent that it was chosen by}.
  """

  test: float
  strength: float
  judged: dict[float, float]


def _fit(rows: Pairs, strength: float):
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.linear_model import LogisticRegression
  from sklearn.pipeline import make_pipeline

  # Words and pairs of them; tf = 1 + log(count).
  features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
  model = make_pipeline(features, LogisticRegression(C=strength, max_iter=2000))
  return model.fit(*zip(*rows, strict=True))


def _right(model, rows: Pairs) -> int:
  texts, targets = zip(*rows, strict=True)
  return int((model.predict(list(texts)) == list(targets)).sum())


def tfidf(
  train: Pairs,
  test: Pairs,
  trials: Sequence[tuple[Pairs, Pairs]],
  strengths: Sequence[float] = (1.0, 10.0),
) -> Linear:
  """TF-IDF of words and word pairs, then logistic regression.

  Args:
    train, test: rows.
    trials: [(rows to fit, rows to judge by)]; the C that is right most often
      over all of them is taken, the smaller one of two that are equal.
    strengths: the values of C to choose from, rising.
  """
  judges = sum(len(judge) for _, judge in trials)
  judged = {
    strength: 100
    * sum(_right(_fit(fit, strength), judge) for fit, judge in trials)
    / judges
    for strength in strengths
  }
  best = max(strengths, key=lambda strength: judged[strength])
  found = 100 * _right(_fit(train, best), test) / len(test)
  return Linear(found, best, judged)
