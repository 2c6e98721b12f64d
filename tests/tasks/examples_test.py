"""Names of tasks, splits and lengths that do not fit."""

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
if sys.argv[1] == 'seqio':
  import seqio
lengths = {'inputs': 29, 'targets': 3}
sets = {}
for vocabulary in 'bytes', 'shipped', 'bytes':
  found = data.Dataset('word_relation', lengths, vocabulary=vocabulary)
  of = found.providers['word_relation'].output_features['inputs'].vocabulary
  (sets[vocabulary],) = evaluate.evaluation_sets(found, batch_size=2)
  print(of.vocab_size == found.vocab_size, of.vocab_size)
for vocabulary, each in sets.items():
  print(each.provider.output_features['inputs'].vocabulary.vocab_size)
assert ('seqio' in sys.modules) == (sys.argv[1] == 'seqio')
"""


@pytest.mark.parametrize('kind', ['seqio', 'plain'])
def test_a_run_has_the_vocabulary_it_asks_for(kind):
  """Whatever a run before it in this process asked for."""
  done = subprocess.run(
    [sys.executable, '-c', _TWO, kind], capture_output=True, text=True
  )
  assert not done.returncode, done.stderr
  size = features.vocabulary().vocab_size
  rows = ['True 259', f'True {size}', 'True 259', '259', str(size)]
  assert done.stdout.splitlines() == rows


def test_a_split_that_a_task_lacks():
  task = types.SimpleNamespace(name='films', splits={'train': 1, 'test': 2})
  with pytest.raises(UserError, match="no split 'dev'; expected one of test"):
    examples.check_split(task, 'dev')


@pytest.mark.parametrize('length', [0, -3, None, 2.5])
def test_lengths_are_whole_and_positive(length):
  with pytest.raises(UserError, match="gives 'targets' as"):
    examples.check_lengths({'inputs': 7, 'targets': length})
