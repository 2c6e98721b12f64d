"""Evaluation: decode or rank every example of a split, then the metrics.

    EVAL_MODE = 'generate'   decode targets, compare texts
    EVAL_MODE = 'rank'       score every label, take the best

Ranking never answers outside the labels; decoding reports the share that
does ('outside', in percent). Where a task words its labels otherwise, the
model is asked for those words and what is written is the label.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import threading
from typing import Any

import jax
import numpy as np

from prompt_jax import batches, export, predict
from prompt_jax.data import Dataset, evaluation
from prompt_jax.errors import UserError
from prompt_jax.evaluation_set import EvaluationSet, rows_in_memory
from prompt_jax.startup import STARTUP
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import local
from prompt_jax.training import sharding
from prompt_jax.training.step import Program

MODES = ('generate', 'rank')
EOS = 1


@dataclasses.dataclass(frozen=True)
class Result:
  """What an evaluation of one task found.

  Attributes:
    task, split: names.
    metrics: {name: value}; see tasks/metrics.py for units.
    predictions: one row an example: input, target, prediction (and scores,
      and the weights of a prompt that is mixed from others).
    weights: {what is mixed: its mean weight}; {} where nothing is.
  """

  task: str
  split: str
  metrics: dict[str, float]
  predictions: list[dict[str, Any]]
  weights: dict[str, float] = dataclasses.field(default_factory=dict)

  def told(self) -> dict[str, Any]:
    """What its JSON file says."""
    about = {'split': self.split, 'examples': len(self.predictions)}
    mixed = {'weights': self.weights} if self.weights else {}
    return {**self.metrics, **about, **mixed}


def label_tokens(vocabulary, labels: Sequence[str]) -> np.ndarray:
  """Label texts -> int32[C,U], each ended by EOS, padded with 0."""
  rows = [[*vocabulary.encode(label), EOS] for label in labels]
  longest = max(map(len, rows))
  return np.asarray(
    [row + [0] * (longest - len(row)) for row in rows], np.int32
  )


class Evaluator:
  """Evaluates parameters on fixed sets; compiles once a set shape.

  Threads that share one take turns.

  Args:
    model: the linen model.
    sets: what to evaluate.
    mode: 'generate' or 'rank'.
    labels: the closed list of target texts; None takes each task's own.
    decoding: how 'generate' decodes.
    mesh: rows of a batch go over its data axis; None is one device.
    stop: read between batches; True ends the evaluation early.
  Raises: UserError for an unknown mode, or ranking without labels.
  """

  def __init__(
    self,
    model,
    sets: Sequence[EvaluationSet],
    mode: str = 'rank',
    labels: Sequence[str] | None = None,
    decoding: predict.Decoding | None = None,
    mesh: jax.sharding.Mesh | None = None,
    stop: Callable[[], bool] = lambda: False,
  ):
    if mode not in MODES:
      raise UserError(f'EVAL_MODE is {mode!r}; expected one of {MODES}.')
    self._sets, self._mode, self._stop = sets, mode, stop
    self._mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
    for each in sets:
      sharding.check_batch(self._mesh, each.batch_size, name='EVAL_BATCH_SIZE')
    self._labels = {
      each.task: list(labels or each.labels or ()) for each in sets
    }
    for each in sets if labels else ():
      definition = local.definition(each.task)
      if definition is not None:
        definition.check_answers(labels)
    if mode == 'rank':
      for task, known in self._labels.items():
        if not known:
          raise UserError(
            f"EVAL_MODE is 'rank' but task {task!r} has no closed list of "
            'labels; expected its target texts. Give LABELS, or use '
            '--gin.EVAL_MODE="\'generate\'".'
          )
      self._rank = Program('ranking', predict.ranker(model), several=True)
    self._model, self._decoding = model, decoding or predict.Decoding()
    self._decode: dict[int, Program] = {}
    self._turn = threading.Lock()
    source = export.sources(model).get('encoder')
    self._mixed = getattr(source, 'names', ())
    weigh = functools.partial(predict.weights_of, model)
    self._weigh = Program('weights', weigh, several=True)

  def __call__(self, flat: Mapping) -> list[Result] | None:
    """Evaluates {path: array}; None if it was stopped early."""
    results = []
    for each in self._sets:
      with self._turn:
        found = self._texts(each, flat)
      if found is None:
        return None
      results.append(self._result(each, *found))
    return results

  def metric_names(self) -> set[str] | None:
    """What `flat_metrics` of an evaluation will hold.

    Returns: names; None where a task is not one of files, so that nobody knows
      before its metrics are computed.
    """
    known = {each.task: local.definition(each.task) for each in self._sets}
    if None in known.values():
      return None
    names: set[str] = set()
    for task, definition in known.items():
      own = {*definition.metric_names(), 'outside'}
      names |= own
      if len(known) > 1:
        names |= {f'{task}/{name}' for name in own}
    return names

  def _texts(self, each: EvaluationSet, flat):
    """Of one set in order: texts, label scores or None, weights or None."""
    vocabulary = each.provider.output_features['targets'].vocabulary
    labels = self._labels[each.task]
    tokens = label_tokens(vocabulary, labels) if labels else None
    texts: list = [None] * len(each)
    scores = np.zeros((len(each), len(labels)), np.float32)
    weights = np.zeros((len(each), len(self._mixed)), np.float32)
    for rows, batch in each.by_length():
      if self._stop():
        return None
      batch, left = self._put(batch), len(rows)
      if self._mode == 'rank':
        part = sharding.gather(self._rank(flat, batch, tokens))
        scores[rows] = part[:left]
        said = [labels[i] for i in part[:left].argmax(axis=1)]
      else:
        longest = each.lengths['targets']
        if tokens is not None:  # nothing past the longest label can be right
          longest = min(longest, tokens.shape[1])
        decoded, _ = self._decoder(longest)(flat, batch)
        part = sharding.gather(decoded)[:left, -1]
        said = [vocabulary.decode(_upto_eos(row)) for row in part]
      for row, text in zip(rows, said, strict=True):
        texts[row] = text
      if self._mixed:
        part = sharding.gather(self._weigh(flat, batch))[:left]
        weights[rows] = part if part.ndim == 2 else part.mean(axis=2)
    ranked = scores.tolist() if self._mode == 'rank' else None
    return texts, ranked, weights.tolist() if self._mixed else None

  def _put(self, batch):
    mine = batches.rows(batch, jax.process_index(), jax.process_count())
    return sharding.put_batch(self._mesh, mine)

  def _decoder(self, length: int) -> Program:
    if length not in self._decode:
      run = predict.decoder(self._model, length, self._decoding)
      name = f'decoding {length} tokens'
      self._decode[length] = Program(name, run, several=True)
    return self._decode[length]

  def _result(self, each: EvaluationSet, texts, scores, weights) -> Result:
    task, metrics = each.provider, {}
    answers = [task.postprocess_fn(text, example=None) for text in texts]
    targets = [
      task.postprocess_fn(text, example=None, is_target=True)
      for text in each.targets_pretokenized
    ]
    for fn in task.predict_metric_fns:
      metrics.update({k: float(v) for k, v in fn(targets, answers).items()})
    labels = self._labels[each.task]
    if labels and self._mode == 'generate':
      outside = np.mean([text not in labels for text in texts])
      metrics['outside'] = 100.0 * float(outside)
    known = local.definition(each.task)
    shown = known.label_of if known else str
    rows = [
      {'input': i, 'target': shown(t), 'prediction': shown(p)}
      for i, t, p in zip(
        each.inputs_pretokenized, each.targets_pretokenized, texts, strict=True
      )
    ]
    if scores is not None:
      names = [shown(label) for label in labels]
      for row, values in zip(rows, scores, strict=True):
        row['scores'] = dict(zip(names, values, strict=True))
    mean = {}
    if weights is not None:
      for row, values in zip(rows, weights, strict=True):
        row['weights'] = dict(zip(self._mixed, values, strict=True))
      means = np.mean(weights, axis=0).tolist()
      mean = dict(zip(self._mixed, means, strict=True))
    return Result(each.task, each.split, metrics, rows, mean)


def _upto_eos(tokens) -> list[int]:
  tokens = [int(t) for t in tokens]
  return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


def flat_metrics(results: Sequence[Result]) -> dict[str, float]:
  """All metrics under one roof, and their means over tasks.

  One task: {'accuracy': ...}. Several: {'<task>/accuracy': ..., 'accuracy':
  the mean over the tasks that have it}.
  """
  if len(results) == 1:
    return dict(results[0].metrics)
  flat, shared = {}, {}
  for result in results:
    for name, value in result.metrics.items():
      flat[f'{result.task}/{name}'] = value
      shared.setdefault(name, []).append(value)
  return {**flat, **{k: float(np.mean(v)) for k, v in shared.items()}}


def _rows(config: T5Config | None, lengths: Mapping[str, int]) -> int:
  """EVAL_BATCH_SIZE='auto': rows that divide by all devices."""
  if config is None:
    raise UserError(
      "EVAL_BATCH_SIZE is 'auto', which needs the shapes of the model; "
      'expected a number of rows where evaluation_sets.config is None. Use '
      '--gin.EVAL_BATCH_SIZE=64.'
    )
  rows, devices = rows_in_memory(config, lengths), jax.device_count()
  return max(rows // devices, 1) * devices


def evaluation_sets(
  dataset: Dataset,
  split: str = 'validation',
  batch_size: int | str = 64,
  max_batches: int | None = None,
  config: T5Config | None = None,
) -> list[EvaluationSet]:
  """One evaluation set for each task of a dataset, with its task id.

  Args:
    dataset: whose tasks; its training examples are not read.
    split: which split; a task that lacks it is left out if others have it.
    batch_size: rows of a batch; 'auto' chooses them by the memory they need.
    max_batches: at most so many batches a task; None is all.
    config: shapes of the model, which 'auto' reads.
  Raises: UserError if no task has the split, or for 'auto' without shapes.
  """
  if batch_size == 'auto':
    batch_size = _rows(config, dataset.task_feature_lengths)
  names = dataset.tasks
  splits = {name: task.splits for name, task in dataset.providers.items()}
  have = [(i, name) for i, name in enumerate(names) if split in splits[name]]
  if not have:
    known = sorted(splits[names[0]])
    raise UserError(
      f'No task of {", ".join(names)} has a split {split!r}; expected one of '
      f'{", ".join(known)}.'
    )
  with STARTUP.phase('data'):
    return [
      evaluation(
        dataset.providers[name],
        split,
        dataset.task_feature_lengths,
        batch_size,
        task_id=i,
        use_cached=dataset.use_cached,
        max_examples=max_batches and max_batches * batch_size,
      )
      for i, name in have
    ]
