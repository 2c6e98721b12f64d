"""Tasks whose sentences count, and what tests of datasets ask of batches.

A test file imports the fixtures that it names.
"""

import functools
import itertools

import numpy as np
import pytest

seqio = pytest.importorskip('seqio')

import sentencepiece  # noqa: E402
import tensorflow as tf  # noqa: E402

from prompt_jax import data  # noqa: E402
from prompt_jax.tasks import features, local  # noqa: E402

LENGTHS = {'inputs': 23, 'targets': 5}
SIZES = {'big': 47, 'small': 7, 'long': 13}
BUCKETS = {'length_buckets': [9, 12, 23]}
WORDS = ['river', 'stone', 'cloud', 'apple', 'green', 'seven', 'north']


def sentence(task, i):
  """Distinct texts: the words spell i; the task 'long' overflows LENGTHS."""
  words = [WORDS[i % 7], WORDS[i // 7 % 7], task]
  return ' '.join(words * (5 if task == 'long' else 1))


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  """A vocabulary of 67 pieces, trained on the sentences of this file."""
  folder = tmp_path_factory.mktemp('vocabulary')
  lines = [sentence(t, i) for t, n in SIZES.items() for i in range(n)]
  (folder / 'text.txt').write_text('\n'.join([*lines, 'odd even'] * 3))
  sentencepiece.SentencePieceTrainer.train(
    input=str(folder / 'text.txt'),
    model_prefix=str(folder / 'tiny'),
    **{'vocab_size': 67, 'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1},
    **{'hard_vocab_limit': False, 'minloglevel': 2},
  )
  return features.vocabulary(str(folder / 'tiny.model'))


@pytest.fixture(scope='module')
def tasks(vocabulary, tmp_path_factory):
  """Registers the tasks of SIZES and two mixtures of them."""
  folder = tmp_path_factory.mktemp('files')
  for name, n in SIZES.items():
    rows = [f'{sentence(name, i)}\t{("even", "odd")[i % 2]}' for i in range(n)]
    path = folder / f'{name}.tsv'
    path.write_text('\n'.join(['text\tlabel', *rows]) + '\n')
    files = {'train': str(path), 'validation': str(path)}
    local.register(
      local.FileTask(name=name, files=files, labels=['even', 'odd']), vocabulary
    )
  seqio.MixtureRegistry.add('pair', [('big', 1.0), ('small', lambda t: 3.0)])
  seqio.MixtureRegistry.add('nested', [('pair', lambda m: 2.0), ('long', 6.0)])
  yield vocabulary
  for name in ('pair', 'nested'):
    seqio.MixtureRegistry.remove(name)
  for name in SIZES:
    seqio.TaskRegistry.remove(name)


def dataset(name='big', **settings):
  settings = {'batch_size': 5, 'seed': 17} | settings
  return data.Dataset(name, LENGTHS, **settings)


def keys(batch, task=None):
  """One value an example: its input tokens as bytes."""
  rows = batch['encoder_input_tokens']
  if task is not None:
    rows = rows[batch['task_ids'] == task]
  return [row.tobytes() for row in rows]


def seen(found, steps, task=None):
  return list(
    itertools.chain.from_iterable(keys(found.batch(s), task) for s in steps)
  )


def same(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def count_up(split, shuffle_files):
  """A source that takes no seed and whose size SeqIO is not told."""
  del split, shuffle_files
  texts = [f'{WORDS[i % 7]} {WORDS[i // 7]}' for i in range(29)]
  return tf.data.Dataset.from_tensor_slices({'inputs': texts, 'targets': texts})


@pytest.fixture
def unsized(tasks):
  for name, source in {
    'unsized': count_up,
    'nothing': lambda split, shuffle_files: count_up('', 0).take(0),
  }.items():
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(source, splits=['train']),
      preprocessors=[
        functools.partial(
          seqio.preprocessors.tokenize, copy_pretokenized=False
        ),
        seqio.preprocessors.append_eos,
      ],
      output_features=features.output_features(tasks),
    )
  yield
  seqio.TaskRegistry.remove('unsized')
  seqio.TaskRegistry.remove('nothing')
