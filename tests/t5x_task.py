"""A SeqIO task of a few rows over bytes, for runs in another process."""

import functools

import seqio
import tensorflow as tf

NAME = 'colours_of_things'
ROWS = [('the sky', 'blue'), ('the grass', 'green'), ('a lemon', 'yellow')]


def _rows(split, shuffle_files, seed=None):
  del split, shuffle_files, seed
  inputs, targets = zip(*ROWS, strict=True)
  return tf.data.Dataset.from_tensor_slices(
    {'inputs': list(inputs), 'targets': list(targets)}
  )


def exact(targets, predictions):
  """The share of predictions that are the target, in percent."""
  hits = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'exact': 100 * sum(hits) / len(hits)}


def negative_scores(targets, scores):
  """The share of targets with a log probability below 0, in percent."""
  return {'negative': 100 * sum(s < 0 for s in scores) / len(targets)}


_feature = seqio.Feature(vocabulary=seqio.ByteVocabulary(), add_eos=True)
seqio.TaskRegistry.add(
  NAME,
  source=seqio.FunctionDataSource(_rows, splits=('train', 'validation')),
  preprocessors=[
    functools.partial(seqio.preprocessors.tokenize),
    seqio.preprocessors.append_eos,
  ],
  output_features={'inputs': _feature, 'targets': _feature},
  metric_fns=[exact, negative_scores],
)
