"""Names of tasks, splits and lengths that do not fit."""

import os
import subprocess
import sys
import types

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import examples, features


def test_a_module_that_is_not_there():
  with pytest.raises(UserError, match="There is no module 'no_such_module'"):
    examples.provider('movie_sentiment', module='no_such_module')


def test_an_unknown_task_shows_the_nearest():
  words = "No task .* 'movie_sentimant'.*Nearest: movie_sentiment"
  with pytest.raises(UserError, match=words):
    examples.provider('movie_sentimant')


_TWO = """
import sys
from prompt_jax import data, evaluate
from prompt_jax.tasks import examples, local
if sys.argv[1] == 'seqio':
  import seqio
with open('a.tsv', 'w') as file:
  file.write('text\\tlabel\\nfine\\tyes\\n')
examples.provider(local.FileTask('films', {'validation': 'a.tsv'}))
lengths = {'inputs': 29, 'targets': 3}
for name in 'word_relation', 'films':
  runs = [
    data.Dataset(name, lengths, vocabulary=vocabulary)
    for vocabulary in ('bytes', 'shipped', 'bytes')
  ]
  sizes = [run.vocab_size for run in runs]
  ids = []
  for run in runs:
    (each,) = evaluate.evaluation_sets(run, batch_size=2)
    of = each.provider.output_features['inputs'].vocabulary.vocab_size
    ids.append((of, each.tokens.inputs[0].tolist()))
  assert ids[0] == ids[2] and [of for of, _ in ids] == sizes
  (tokens, _), (pieces, _) = ids[0], ids[1]
  assert max(ids[0][1]) < 259, ids
  each = data.evaluation(name, 'validation', lengths, vocabulary='shipped')
  assert each.tokens.inputs[0].tolist() == ids[1][1] != ids[0][1]
  print(name, tokens, pieces)
assert ('seqio' in sys.modules) == (sys.argv[1] == 'seqio')
"""


def _said(code, folder, *given):
  done = subprocess.run(
    [sys.executable, '-c', code, *given],
    capture_output=True,
    text=True,
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert not done.returncode, done.stderr
  return done.stdout.splitlines()


@pytest.mark.parametrize('kind', ['seqio', 'plain'])
def test_a_run_has_the_vocabulary_it_asks_for(kind, tmp_path):
  """Whatever a run before it in this process asked for."""
  size = features.vocabulary().vocab_size
  assert _said(_TWO, tmp_path, kind) == [
    f'word_relation 259 {size}',
    f'films 259 {size}',
  ]


_OWN = """
from prompt_jax import data, evaluate
from prompt_jax.tasks import examples
light = examples.provider('word_relation')
import seqio
from prompt_jax.tasks import features
kind, name = {kind!r}, 'word_relation'
if kind == 'task':
  out = features.output_features(features.vocabulary('bytes'))
  source = seqio.TextLineDataSource({{'train': 'a.txt'}})
  own = seqio.TaskRegistry.add(name, source=source, output_features=out)
else:
  for each in 'gloss_pos', 'tweet_valence':
    examples.provider(each)
  own = seqio.MixtureRegistry.add(name, ['gloss_pos', 'tweet_valence'], 1.0)
assert examples.provider(name, 'bytes') is own is examples.provider(name)
if kind == 'mixture':
  lengths = dict(inputs=29, targets=3)
  run = data.Dataset(name, lengths, vocabulary='bytes')
  for each in evaluate.evaluation_sets(run, batch_size=2):
    assert each.provider is run.providers[each.task]
    assert max(each.tokens.inputs[0].tolist()) > 259
print(type(light).__name__)
"""


@pytest.mark.parametrize('kind', ['task', 'mixture'])
def test_what_a_user_registers_stays(kind, tmp_path):
  """Though a shipped task of that name has been used before."""
  assert _said(_OWN.format(kind=kind), tmp_path) == ['PlainTask']


def test_a_split_that_a_task_lacks():
  task = types.SimpleNamespace(name='films', splits={'train': 1, 'test': 2})
  with pytest.raises(UserError, match="no split 'dev'; expected one of test"):
    examples.check_split(task, 'dev')


@pytest.mark.parametrize('length', [0, -3, None, 2.5])
def test_lengths_are_whole_and_positive(length):
  with pytest.raises(UserError, match="gives 'targets' as"):
    examples.check_lengths({'inputs': 7, 'targets': length})
