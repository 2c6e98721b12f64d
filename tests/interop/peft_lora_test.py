"""LoRA of PEFT: matrices, ranks, scales, and what is refused."""

import math

import numpy as np
import pytest

from prompt_jax.interop import peft
from tests.interop import adapters

SITES = ('encoder/layers_0/attention/key', 'decoder/layers_1/mlp/wo')


def test_lora(tmp_path):
  patterns = {'rank_pattern': {'wo': 3}, 'alpha_pattern': {'.*Attention.*': 9}}
  wide = {
    f'{adapters.WO}.lora_A.weight': adapters.random(3, 17),
    f'{adapters.WO}.lora_B.weight': adapters.random(13, 3),
  }
  found = peft.read(adapters.lora(tmp_path / 'a', wide, **patterns))
  np.testing.assert_array_equal(
    found.arrays[f'{SITES[0]}_insert/lora_a'], adapters.random(2, 13).T
  )
  np.testing.assert_array_equal(
    found.arrays[f'{SITES[1]}_insert/lora_b'], adapters.random(13, 3).T
  )
  sites = found.by_site('a')
  assert sites[SITES[0]][0] == {'type': 'LoRA', 'rank': 2, 'alpha': 9.0}
  assert sites[SITES[1]][0] == {'type': 'LoRA', 'rank': 3, 'alpha': 5.0}


def test_rank_stabilised_lora(tmp_path):
  found = peft.read(adapters.lora(tmp_path / 'a', use_rslora=True))
  alpha = found.by_site('a')[SITES[0]][0]['alpha']
  assert alpha / 2 == pytest.approx(5 / math.sqrt(2))


@pytest.mark.parametrize(
  'config, words',
  [
    ({'r': None}, 'has r None; expected a number'),
    ({'lora_alpha': None}, 'has lora_alpha None; expected a number'),
    ({'r': 3}, 'A [3, in] and B [out, 3]'),
    ({'use_dora': True}, 'trained with use_dora; expected plain LoRA'),
    ({'init_lora_weights': 'pissa'}, "init_lora_weights 'pissa'"),
  ],
)
def test_lora_that_is_refused(tmp_path, config, words):
  adapters.refuses(adapters.lora(tmp_path / 'a', **config), words)


@pytest.mark.parametrize(
  'name',
  ['lm_head.lora_A.weight', 'shared.lora_embedding_A', 'lm_head.weight'],
)
def test_lora_that_has_no_site(tmp_path, name):
  extra = {f'base_model.model.{name}': adapters.random(2, 13)}
  folder = adapters.lora(tmp_path / 'a', extra)
  adapters.refuses(folder, name, 'which no site here can')
