"""Prefixes of PEFT: which layer reads which part of the tensor."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.interop import peft
from prompt_jax.interop.content import Inserts
from tests.interop import adapters

SITE = 'decoder/layers_{}/self_attention/ahead'


def _rows(found, layer, name):
  return found.arrays[f'{SITE.format(layer)}_insert/{name}']


@pytest.mark.parametrize(
  ('layers', 'first'), [(1, [0]), (3, [0, 4, 2]), (4, [0, 4, 0, 4])]
)
def test_where_the_rows_of_a_layer_lie(tmp_path, layers, first):
  found = peft.read(adapters.prefix(tmp_path / 'a', layers))
  assert set(found.by_site('a')) == {SITE.format(i) for i in range(layers)}
  whole = adapters.random(7, 2 * layers * 15).reshape(7, 2 * layers, 15)
  for i, entry in enumerate(first):
    np.testing.assert_array_equal(_rows(found, i, 'keys'), whole[:, entry])
    np.testing.assert_array_equal(
      _rows(found, i, 'values'), whole[:, entry + 1]
    )


@pytest.mark.parametrize(
  ('settings', 'told'),
  [
    ({'token_dim': 14}, 'expected only prompt_embeddings [7, 84]'),
    ({'num_layers': None}, "'num_layers': None"),
    ({'num_transformer_submodules': 1}, 'num_transformer_submodules 1'),
  ],
)
def test_a_prefix_that_is_not_whole(tmp_path, settings, told):
  adapters.refuses(adapters.prefix(tmp_path / 'a', **settings), told)


def _changed(found, **arrays):
  return Inserts(found.table, {**found.arrays, **arrays})


def test_what_peft_cannot_hold(tmp_path):
  found = peft.read(adapters.prefix(tmp_path / 'a', layers=4))
  path = f'{SITE.format(3)}_insert/values'
  other = _changed(found, **{path: found.arrays[path] + 1})
  with pytest.raises(UserError, match='Layers 1 and 3 .* differ') as caught:
    peft.write(tmp_path / 'b', other, None)
  assert 'the same values' in str(caught.value)
  path = 'encoder/layers_0/attention/ahead_insert/keys'
  table = [*found.table, ('encoder/.*/ahead', found.table[0][1])]
  arrays = {**found.arrays, path: adapters.random(7, 15)}
  with pytest.raises(UserError, match='expected as many in the self attention'):
    peft.write(tmp_path / 'b', Inserts(table, arrays), None)
  shorter = f'{SITE.format(0)}_insert/keys'
  other = _changed(found, **{shorter: adapters.random(5, 15)})
  with pytest.raises(UserError, match='expected as many in the self attention'):
    peft.write(tmp_path / 'b', other, None)
  assert not (tmp_path / 'b').exists()
