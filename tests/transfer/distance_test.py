"""Distance minimising."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import distance, shelf
from prompt_jax.transfer.projector import Projector
from tests.transfer import small

NAMES = ('a', 'b', 'c')


def shelves():
  source = small.arrays(3, (5, 2))
  target = small.arrays(3, (3, 7), 1)
  of = lambda rows: shelf.of(dict(zip(NAMES, rows, strict=True)))
  return of(source), of(target)


def test_it_comes_closer():
  source, target = shelves()
  module = Projector(3, 7, 13, norm=False)
  flat, losses = distance.fit(module, source, target, 40, rate=0.01)
  assert losses[-1] < 0.8 * losses[0]
  whole = distance.loss(module, flat, source.prompts, target.prompts)
  assert float(whole) < losses[0]


def test_tasks_are_drawn_once_before_any_twice():
  rng = np.random.default_rng(0)
  drawn = distance.drawn(5, 7, rng)
  assert sorted(drawn[:5]) == list(range(5)) and len(drawn) == 7
  assert len(set(distance.drawn(9, 4, rng))) == 4


def test_no_task_in_common_or_another_shape():
  source, target = shelves()
  other = shelf.of({'x': target.prompts[0]})
  with pytest.raises(UserError, match='are of a, b, c, those of the target'):
    distance.fit(Projector(3, 7), source, other, 1)
  with pytest.raises(UserError, match=r'makes prompts \[5, 7\].*\[3, 7\]'):
    distance.fit(Projector(5, 7), source, target, 1)
