"""Rates: shares of tasks from numbers of examples or from what is given."""

import types

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import rates

TASKS = {name: types.SimpleNamespace(name=name) for name in ('a', 'b')}
COUNTS = {'a': 30, 'b': 10}


def test_shares():
  of = lambda given: rates.of_tasks(TASKS, TASKS, given, COUNTS.get)
  assert of(None) == {'a': 0.75, 'b': 0.25}
  assert of({'a': 1, 'b': 4}) == {'a': 0.2, 'b': 0.8}
  one = {'a': TASKS['a']}
  assert rates.of_tasks(one, one, None, COUNTS.get) == {'a': 1.0}


@pytest.mark.parametrize(
  'given, count, text',
  [
    ({'a': 1}, COUNTS.get, "'b' is on one side only"),
    ({'a': 1, 'b': 0}, COUNTS.get, "rate of task 'b' is 0.0"),
    (None, {'a': 3}.get, "examples of 'b' is not known"),
  ],
)
def test_mistakes(given, count, text):
  with pytest.raises(UserError, match=text):
    rates.of_tasks(TASKS, TASKS, given, count)
