"""Registers the pretraining tasks with SeqIO when it is imported.

MIXTURE_OR_TASK_MODULE = 'launch.pretrain.registered'; the folder that
`launch.pretrain.tasks` and `launch.pretrain.spans` wrote is in the environment
variable PRETRAIN_DATA (default runs/pretrain/data).
"""

import json
import os
import pathlib

import numpy as np
import seqio
import tensorflow as tf

from prompt_jax.tasks import features, local

FOLDER = pathlib.Path(os.environ.get('PRETRAIN_DATA', 'runs/pretrain/data'))
SPANS = 'spans'
# Four rows of span corruption beside 64 of the other tasks: a quarter of the
# target tokens, as in the small runs the recipe was chosen by (README.md).
SPAN_SHARE = 4 / 68
# The labelled tasks; a run on all tasks, the self-supervised ones too, learned
# less of them in the same number of steps (README.md).
LABELLED = ('amazon', 'tweet', 'airline', 'lexicon', 'gloss', 'word_in')
LABELLED += ('definition', 'bible', 'sotu')


def mixture(prefixes: tuple[str, ...] = LABELLED) -> dict[str, float]:
  """{task: rate} of the tasks whose names start so, spans last."""
  table = json.loads((FOLDER / 'mixture.json').read_text())
  rates = {
    name: each['rate']
    for name, each in table.items()
    if name.startswith(prefixes)
  }
  total = sum(rates.values())
  return {**rates, SPANS: total * SPAN_SHARE / (1 - SPAN_SHARE)}


def _register_spans(vocabulary) -> None:
  """Span corruption as token ids, padded with 0, EOS in place."""
  stored = np.load(FOLDER / SPANS / 'train.npz', allow_pickle=False)
  inputs, targets = stored['inputs'], stored['targets']

  def read(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    rows = {'inputs': inputs, 'targets': targets}
    ragged = {
      name: tf.RaggedTensor.from_tensor(array, padding=0)
      for name, array in rows.items()
    }
    return tf.data.Dataset.from_tensor_slices(ragged).map(
      lambda row: {k: tf.identity(v) for k, v in row.items()}
    )

  seqio.TaskRegistry.add(
    SPANS,
    source=seqio.FunctionDataSource(
      read, splits=('train',), num_input_examples={'train': len(inputs)}
    ),
    preprocessors=[],
    output_features=features.output_features(vocabulary),
    metric_fns=[],
  )


def register() -> None:
  """Registers every task of the mixture and the mixture 'pretrain'."""
  vocabulary = features.vocabulary('shipped')
  rates = mixture()
  for name in rates:
    if name == SPANS:
      _register_spans(vocabulary)
      continue
    folder = FOLDER / name
    splits = {s: str(folder / f'{s}.tsv') for s in ('train', 'validation')}
    local.register(
      local.FileTask(name, splits, label_column='target'), vocabulary
    )
  seqio.MixtureRegistry.add('pretrain', list(rates.items()))


register()
