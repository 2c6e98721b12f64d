"""Few training rows: how many of a class, and which."""

import collections

import pytest

from launch import subset
from prompt_jax.errors import UserError
from prompt_jax.tasks import local
from tests.launch import small

# 24 classes of very different sizes, as one shipped task has them.
CLASSES = [f'class {i}' for i in range(24) for _ in range(1 + 3 * i)]


@pytest.mark.parametrize('n', [1, 23, 24, 64, 101])
def test_classes_are_as_even_as_they_allow(n):
  rows = subset.choose(CLASSES, n, seed=3)
  assert len(set(rows)) == n and rows == sorted(rows)
  counts = collections.Counter(CLASSES[row] for row in rows)
  sizes = collections.Counter(CLASSES)
  most = max(counts.values())
  for name, size in sizes.items():
    # a class has one less than another only by turn, or because it is used up
    assert counts[name] >= min(size, most - 1), name


def test_a_larger_draw_only_adds_rows():
  draws = [set(subset.choose(CLASSES, n, seed=5)) for n in (16, 64, 256)]
  assert draws[0] < draws[1] < draws[2]


def test_the_seed_alone_decides():
  first = subset.choose(CLASSES, 64, seed=0)
  assert first == subset.choose(CLASSES, 64, seed=0)
  assert first != subset.choose(CLASSES, 64, seed=1)


def test_too_many_rows_are_refused():
  with pytest.raises(UserError, match='49 training rows.* expected 1 to 48'):
    subset.choose(['a'] * 48, 49, 0)


def test_halves_part_every_class():
  rows = subset.choose(CLASSES, 64, seed=7)
  one, two = subset.halves(CLASSES, rows)
  assert sorted(one + two) == rows and not set(one) & set(two)
  for name in {CLASSES[row] for row in rows}:
    here, there = (sum(CLASSES[i] == name for i in part) for part in (one, two))
    assert abs(here - there) <= 1, name


def test_a_drawn_task_has_those_rows_and_the_old_test_split(tmp_path):
  task = small.task()
  rows = [2, 3, 47]
  few = subset.drawn(task, 'few', {'train': rows}, tmp_path, keep=('test',))
  whole = local.examples(task, 'train')
  assert local.examples(few, 'train') == [whole[row] for row in rows]
  assert local.examples(few, 'test') == local.examples(task, 'test')
  assert few.name == 'few' and set(few.files) == {'train', 'test'}


def test_a_drawn_task_keeps_columns_and_verbalizer(tmp_path):
  task = local.shipped('word_relation')
  few = subset.drawn(task, 'pairs', {'train': [0, 5]}, tmp_path)
  whole = local.examples(task, 'train')
  assert local.examples(few, 'train') == [whole[0], whole[5]]
  assert few.verbalizer == task.verbalizer
