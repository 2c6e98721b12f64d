"""Which axes Adafactor factors; T5X's own answers are in parity/."""

import pytest

from prompt_jax.errors import UserError
from prompt_jax.training.layout import Layout, layout


def test_each_task_is_laid_out_as_if_alone():
  axes = ('tasks', 'prompt', 'prompt_embed')
  for shape in (131, 137), (7, 137):
    alone = layout('p', shape)
    moved = Layout(*(tuple(axis + 1 for axis in each) for each in alone))
    assert layout('p', (3, *shape), axes) == moved
  assert layout('p', (3, 137), ('tasks', 'prompt')) == Layout((1,))


def test_axes_that_do_not_fit():
  with pytest.raises(UserError, match='without logical axes; expected rank 2'):
    layout('p', (3, 5, 7))
  with pytest.raises(UserError, match='got 1 logical axes'):
    layout('p', (3, 5), ('tasks',))
