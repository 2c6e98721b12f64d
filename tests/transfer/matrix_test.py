"""Transfer matrices: relative scores, means by type, CSV."""

import dataclasses
import json

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import matrix
from prompt_jax.transfer.matrix import Matrix

NAN = float('nan')


@pytest.fixture
def scores():
  return Matrix(
    ('a', 'b', 'c', 'd'),
    ('a', 'b', 'c', 'random'),
    np.array(
      [[80, 60, 20, 40], [45, 90, 30, 9], [10, 5, 50, NAN], [1, 2, 3, 4]], float
    ),
  )


def test_relative_is_by_the_own_prompt(scores):
  found = scores.relative()
  np.testing.assert_allclose(found.scores[0], [1, 0.75, 0.25, 0.5])
  np.testing.assert_allclose(found.scores[1], [0.5, 1, 1 / 3, 0.1])
  assert np.isnan(found.scores[3]).all()  # d has no prompt
  assert found.score('b', 'random') == 0.1


def test_corrected_scores_count_from_one_answer_to_all(scores):
  floors = {'a': 40.0, 'b': 50.0, 'c': 50.0}  # that of d is not known
  held = dataclasses.replace(scores, floors=floors)
  found = held.relative(corrected=True).scores
  np.testing.assert_allclose(found[0], [1, 0.5, -0.5, 0])
  np.testing.assert_allclose(found[1], [-0.125, 1, -0.5, -1.025])
  assert np.isnan(found[2:]).all()  # c is not above its floor
  np.testing.assert_array_equal(
    held.relative().scores, scores.relative().scores
  )
  means = matrix.by_type(held, {'x': ['a', 'b'], 'y': ['c']}, corrected=True)
  np.testing.assert_allclose(means['same type'], (0.5 - 0.125) / 2)


def test_square_is_over_tasks_with_a_prompt(scores):
  found = scores.square()
  assert found.tasks == found.prompts == ('a', 'b', 'c')
  turned = scores.square(['c', 'a'])
  np.testing.assert_array_equal(turned.scores, [[50, 10], [20, 80]])


def test_csv_round_trip(scores, tmp_path):
  scores.write(tmp_path / 'm.csv')
  text = (tmp_path / 'm.csv').read_text()
  assert text.startswith('target,a,b,c,random\na,80.0000,60.0000')
  found = matrix.read(tmp_path / 'm.csv')
  assert (found.tasks, found.prompts) == (scores.tasks, scores.prompts)
  np.testing.assert_array_equal(found.scores, scores.scores)


def test_table_shows_what_is_missing(scores):
  lines = scores.table()
  assert lines[0].split() == ['target', 'a', 'b', 'c', 'random']
  assert lines[3].split() == ['c', '10.0', '5.0', '50.0', '-']


def test_means_by_type(scores):
  found = matrix.by_type(scores, {'x': ['a', 'b'], 'y': ['c']})
  np.testing.assert_allclose(found['same type'], (0.75 + 0.5) / 2)
  np.testing.assert_allclose(found['x'], found['same type'])
  others = [0.25, 1 / 3, 0.2, 0.1]
  np.testing.assert_allclose(found['different type'], np.mean(others))
  np.testing.assert_allclose(found['random'], (0.5 + 0.1) / 2)
  assert np.isnan(found['y'])


def test_bad_files(tmp_path):
  path = tmp_path / 'm.csv'
  for text in ('target,a\nx,no\n', 'target,a\nx,1,2\n', ''):
    path.write_text(text)
    with pytest.raises(UserError, match='cannot be read as a transfer matrix'):
      matrix.read(path)
  path.write_text('[1]')
  with pytest.raises(UserError, match='cannot be read as types of tasks'):
    matrix.read_types(path)
  path.write_text(json.dumps({'x': ['a'], 'y': ['a']}))
  with pytest.raises(UserError, match="'a' is of type 'x' and of type 'y'"):
    matrix.read_types(path)
