"""IA3 of PEFT: what a vector scales is told by its shape."""

import numpy as np
import pytest

from prompt_jax.interop import peft
from tests.interop import adapters

KEY = 'encoder/layers_0/attention/key'
HIDDEN = 'decoder/layers_1/mlp/hidden'


def test_ia3(tmp_path):
  found = peft.read(adapters.ia3(tmp_path / 'a'))
  assert found.arrays.keys() == {f'{s}_insert/scale' for s in (KEY, HIDDEN)}
  scale = found.arrays[f'{HIDDEN}_insert/scale']
  np.testing.assert_array_equal(scale, adapters.random(1, 17)[0])
  assert set(found.by_site('a')) == {KEY, HIDDEN}


@pytest.mark.parametrize(
  'name, shape',
  [
    ('base_model.model.lm_head.weight', (11, 13)),
    ('base_model.model.shared.ia3_l', (11, 1)),
    (f'{adapters.KEY}.ia3_l', (1, 13)),  # what key reads
    (f'{adapters.KEY}.ia3_l', (15, 2)),
  ],
)
def test_ia3_that_has_no_site(tmp_path, name, shape):
  tensors = {name: adapters.random(*shape)}
  adapters.refuses(
    adapters.ia3(tmp_path / 'a', tensors), name, 'which no site here can'
  )
