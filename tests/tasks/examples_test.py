"""Names of tasks, splits and lengths that do not fit."""

import types

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import examples


def test_a_module_that_is_not_there():
  with pytest.raises(UserError, match="There is no module 'no_such_module'"):
    examples.provider('movie_sentiment', module='no_such_module')


def test_an_unknown_task_shows_the_nearest():
  words = "No task .* 'movie_sentimant'.*Nearest: movie_sentiment"
  with pytest.raises(UserError, match=words):
    examples.provider('movie_sentimant')


def test_a_split_that_a_task_lacks():
  task = types.SimpleNamespace(name='films', splits={'train': 1, 'test': 2})
  with pytest.raises(UserError, match="no split 'dev'; expected one of test"):
    examples.check_split(task, 'dev')


@pytest.mark.parametrize('length', [0, -3, None, 2.5])
def test_lengths_are_whole_and_positive(length):
  with pytest.raises(UserError, match="gives 'targets' as"):
    examples.check_lengths({'inputs': 7, 'targets': length})
