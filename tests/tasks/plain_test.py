"""Tasks without TensorFlow: the tokens and texts that SeqIO would give."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from prompt_jax import data
from prompt_jax.errors import UserError
from prompt_jax.tasks import examples, features, local, plain

seqio = pytest.importorskip('seqio')

LENGTHS = {'inputs': 64, 'targets': 8}
_ALONE = """
import sys
from prompt_jax import data, evaluate
found = data.Dataset('lexicon_sentiment', {'inputs': 64, 'targets': 8})
(held,) = evaluate.evaluation_sets(found)
task = held.provider
print(found.fingerprint(), found.vocab_size, len(held), held.labels)
print(task.postprocess_fn('x', example=None), len(task.predict_metric_fns))
print(sorted({'seqio', 'tensorflow'} & set(sys.modules)))
import seqio
again = data.Dataset('lexicon_sentiment', {'inputs': 64, 'targets': 8})
print(again.fingerprint() == found.fingerprint(), type(again.providers[
  'lexicon_sentiment']).__name__)
"""


def test_a_shipped_task_is_the_same_without_tensorflow():
  root = pathlib.Path(__file__).parents[2]
  environment = {**os.environ, 'PYTHONPATH': str(root)}
  said = subprocess.run(
    [sys.executable, '-c', _ALONE],
    env=environment,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  found = data.Dataset('lexicon_sentiment', LENGTHS)
  assert not isinstance(found.providers['lexicon_sentiment'], plain.PlainTask)
  held = data.evaluation('lexicon_sentiment', 'validation', LENGTHS)
  task = examples.provider('lexicon_sentiment')
  assert said[0] == (
    f'{found.fingerprint()} {found.vocab_size} {len(held)} {held.labels}'
  )
  assert said[1] == f'x {len(task.predict_metric_fns)}'
  assert said[2] == '[]'
  assert said[3] == 'True Task'


@pytest.mark.parametrize('path', ['shipped', 'bytes'])
def test_vocabularies_are_alike(path):
  mine, theirs = plain.vocabulary(path), features.vocabulary(path)
  assert mine is plain.vocabulary(path)
  assert mine.vocab_size == theirs.vocab_size
  rng = np.random.default_rng(5)
  for _ in range(300):
    ids = rng.integers(1, mine.vocab_size + 7, rng.integers(1, 9)).tolist()
    assert mine.decode(ids) == theirs.decode(ids), ids
  for text in 'a <extra_id_0> b', 'x<extra_id_5>y', '  é ü ', '', '....!!!!':
    assert list(mine.encode(text)) == list(theirs.encode(text))


def test_rows_are_read_in_order():
  pairs = {'train': [('ab', 'yes'), ('c', 'no'), ('ab', 'no')]}
  task = plain.PlainTask(
    'pairs', pairs, plain.vocabulary('bytes'), [], str.upper
  )
  tokens, words = task.read('train', 2)
  assert [row.tolist() for row in map(tokens['inputs'].__getitem__, range(2))]
  assert tokens['inputs'][0].tolist() == [ord('a') + 3, ord('b') + 3, 1]
  assert len(tokens['targets']) == 2
  assert words['targets_pretokenized'] == ['yes', 'no']
  assert task.splits == ('train',) and task.num_input_examples('train') == 3
  assert task.postprocess_fn('no', example=None, is_target=True) == 'NO'


def test_what_no_task_can_be_made_of(tmp_path):
  with pytest.raises(UserError, match="not take the task name 'my films'"):
    plain.PlainTask('my films', {}, None, [], str)
  (tmp_path / 'broken.model').write_bytes(b'no model')
  with pytest.raises(UserError, match='is not a SentencePiece model'):
    plain.vocabulary(str(tmp_path / 'broken.model'))


def test_a_definition_keeps_its_name(tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_text('text\tlabel\nab\tc\n')
  task = local.FileTask('kept', {'train': str(path)}, vocabulary='bytes')
  found = local.register(task)
  assert local.rows_of(found).pairs == {'train': [('ab', 'c')]}
  assert examples.with_seqio(found) is found
  seqio.TaskRegistry.remove('kept')
