"""Adapter folders of PEFT: what is in them, and what is refused."""

import functools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from prompt_jax.errors import UserError
from prompt_jax.inserts import IA3, Adapter, LoRA, saved
from prompt_jax.interop import modules, peft
from prompt_jax.interop.content import Inserts, Prompt
from tests.interop import adapters, torch_archive

ROWS = adapters.random(7, 13)


def test_a_prompt_in_an_old_folder(tmp_path):
  folder = adapters.prompt(tmp_path / 'a')
  (tmp_path / 'a' / 'adapter_model.safetensors').unlink()
  arrays = {'prompt_embeddings': ROWS}
  torch_archive.write_arrays(tmp_path / 'a' / 'adapter_model.bin', arrays)
  np.testing.assert_array_equal(peft.read(folder).array, ROWS)


def test_a_folder_that_is_not_whole(tmp_path):
  adapters.refuses(tmp_path, 'adapter_config.json could not be read')
  folder = adapters.prompt(tmp_path / 'a')
  (tmp_path / 'a' / 'adapter_model.safetensors').write_bytes(b'x' * 11)
  adapters.refuses(folder, 'adapter_model.safetensors could not be read')


def _inserts(rows, **shapes):
  """Inserts with arrays {site: {parameter: shape}}."""
  arrays = {
    f'{site}/{name}': adapters.random(*shape)
    for site, own in shapes.items()
    for name, shape in own.items()
  }
  return Inserts(rows, arrays)


LOW = {'lora_a': (13, 2), 'lora_b': (2, 15)}


@pytest.mark.parametrize('kind', ['prompt', 'prefix', 'ia3', 'lora'])
def test_a_round_trip(tmp_path, kind):
  first = peft.read(getattr(adapters, kind)(tmp_path / 'a'))
  folder = peft.write(tmp_path / 'b', first, 'some/base')
  again = peft.read(folder)
  assert again.about['base'] == 'some/base'
  if kind == 'prompt':
    np.testing.assert_array_equal(again.array, first.array)
    return
  assert saved.described(again.table) == saved.described(first.table)
  assert again.arrays.keys() == first.arrays.keys()
  for name, array in first.arrays.items():
    np.testing.assert_array_equal(again.arrays[name], array, name)
  before = load_file(tmp_path / 'a' / 'adapter_model.safetensors')
  after = load_file(tmp_path / 'b' / 'adapter_model.safetensors')
  assert {k: x.shape for k, x in after.items()} == {
    k: x.shape for k, x in before.items()
  }


def test_what_is_written_of_two_ranks(tmp_path):
  low = functools.partial(LoRA, rank=2, alpha=5.0)
  wide = functools.partial(LoRA, rank=3, alpha=5.0)
  layer = 'encoder/layers_{}/attention/{}_insert'
  content = _inserts(
    [('.*/query', low), ('.*/key', wide)],
    **{layer.format(0, 'query'): LOW, layer.format(1, 'query'): LOW},
    **{layer.format(0, 'key'): {'lora_a': (13, 3), 'lora_b': (3, 15)}},
  )
  peft.write(tmp_path / 'a', content, None)
  config = json.loads((tmp_path / 'a' / 'adapter_config.json').read_text())
  key = 'encoder.block.0.layer.0.SelfAttention.k'
  assert config['r'] == 2 and config['lora_alpha'] == 5.0
  assert config['rank_pattern'] == {key: 3} and config['alpha_pattern'] == {}
  assert len(config['target_modules']) == 3 and key in config['target_modules']


KEY, WO, HIDDEN = (
  f'encoder/layers_0/{place}_insert'
  for place in ('attention/key', 'mlp/wo', 'mlp/hidden')
)


_LOW = functools.partial(LoRA, rank=2, alpha=5.0)


@pytest.mark.parametrize(
  'content, words',
  [
    (Prompt(ROWS, {'stack': 'decoder'}), "'stack': 'decoder'"),
    (Prompt(ROWS, {'depth': 7}), 'in no deeper layer'),
    (Prompt(ROWS, {'where': 'after_bos'}), 'all that a prompt of PEFT can be'),
    (
      _inserts([('.*', Adapter)], **{KEY: {'up_bias': (15,)}}),
      'are Adapter; expected only one of IA3, LoRA',
    ),
    (
      _inserts(
        [('.*key', IA3), ('.*wo', _LOW)], **{KEY: {'scale': (15,)}, WO: LOW}
      ),
      'are IA3, LoRA; expected only one of',
    ),
    (
      _inserts(
        [('.*', IA3)], **{WO: {'scale': (13,)}, HIDDEN: {'scale': (17,)}}
      ),
      'scale what encoder.block.0.layer.1.DenseReluDense.wo reads and',
    ),
    (
      _inserts([('.*', _LOW)], **{HIDDEN: LOW}),
      'have LoRA at encoder/layers_0/mlp/hidden',
    ),
    (
      _inserts([('.*', IA3), ('.*', IA3)], **{f'{KEY}_1': {'scale': (15,)}}),
      'has two inserts at encoder/layers_0/attention/key',
    ),
  ],
)
def test_what_peft_has_no_form_for(tmp_path, content, words):
  with pytest.raises(UserError) as caught:
    peft.write(tmp_path / 'a', content, None)
  assert words in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_a_folder_is_not_overwritten(tmp_path):
  with pytest.raises(UserError, match='exists; expected a new name'):
    peft.write(tmp_path, Prompt(ROWS), None)
  assert not list(tmp_path.iterdir())


def test_patterns_meet_the_sites_and_no_other():
  sites = [
    *(
      f'encoder/layers_{i}/attention/{n}'
      for i in (0, 2)
      for n in ('key', 'out')
    ),
    *('encoder/layers_1/mlp/wo', 'decoder/layers_10/self_attention/key'),
  ]
  assert modules.patterns(sites) == [
    'decoder/layers_(10)/(self_attention/key)',
    'encoder/layers_(0|2)/(attention/key|attention/out)',
    'encoder/layers_(1)/(mlp/wo)',
  ]
