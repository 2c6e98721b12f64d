"""Templates: columns into text, and rows that lack one."""

import types

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import template


def _task(text):
  return types.SimpleNamespace(template=text, name='pairs')


def test_columns_fill_a_template():
  pieces = template.pieces(_task('{a}: {b}!'))
  assert template.fill(pieces, {'a': 'big', 'b': 7}, 2, 'x.tsv') == 'big: 7!'


def test_mistakes():
  with pytest.raises(UserError, match='cannot be read: .*Expected text with'):
    template.pieces(_task('{a'))
  with pytest.raises(UserError, match="line 3 has no column 'b'"):
    template.fill(template.pieces(_task('{b}')), {'a': 'big'}, 3, 'x.tsv')
