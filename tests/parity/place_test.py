"""Placement and masks against arrays of the released code, exactly."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.prompts.place import (
  decoder_attention,
  encoder_attention,
  place,
)
from tests.shared import fixtures

ALWAYS = ('input->input', 'input->prompt')
NAMES = {
  'all_but_causal': (*ALWAYS, 'prompt->prompt', 'prompt->input'),
  'pp': ('prompt->prompt',),
  'pc': ('prompt->prompt;causal',),
  'pi': ('prompt->input',),
  'self_only': ALWAYS,
  'pc_pi': ('prompt->prompt;causal', 'prompt->input'),
  'empty': (),
}


def _read():
  arrays = np.load(fixtures('prompt_tuning') / 'combine_masks.npz')
  return {name: jnp.asarray(arrays[name]) for name in arrays}


def _placed(golden, tokens=None, where='prefix', drop=0):
  """The golden prompt among the golden input, less its first `drop` tokens."""
  tokens = golden['tokens'] if tokens is None else tokens
  mask = tokens > 0
  if 0 in tokens[:, 0]:  # a decoder's start token has id 0 and is real
    mask = mask.at[:, 0].set(True)
  embeds, mask = golden['embeds'][:, drop:], mask[:, drop:]
  return place(golden['expanded'], embeds, mask, where)


@pytest.mark.parametrize(
  'name, where, tokens',
  [
    ('prefix', 'prefix', 'tokens'),
    ('module_prefix', 'prefix', 'tokens'),
    ('prefix_after_bos', 'after_bos', 'tokens'),
    ('suffix_dec0_beforeeos1', 'before_eos', 'tokens'),
    ('suffix_dec0_beforeeos0', 'after_eos', 'tokens'),
    ('suffix_dec1_beforeeos1', 'before_eos', 'tokens_decoder'),
    ('suffix_dec1_beforeeos0', 'after_eos', 'tokens_decoder'),
  ],
)
def test_placement(name, where, tokens):
  golden = _read()
  found = _placed(golden, golden[tokens], where).embeds
  np.testing.assert_array_equal(found, golden[name])


@pytest.mark.parametrize('multitask', [0, 1])
def test_mask(multitask):
  """A task token is dropped before the prompt is placed."""
  golden = _read()
  np.testing.assert_array_equal(
    _placed(golden, drop=multitask).mask,
    golden[f'fake_prompt_multitask{multitask}'] > 0,
  )


def test_encoder_attention_without_names_is_the_plain_mask():
  golden = _read()
  _, mask, is_prompt = _placed(golden)
  np.testing.assert_array_equal(
    encoder_attention(mask, is_prompt), golden['encoder_mask'] > 0
  )


@pytest.mark.parametrize('multitask', [0, 1])
@pytest.mark.parametrize('name', NAMES)
def test_encoder_attention(name, multitask):
  golden = _read()
  _, mask, is_prompt = _placed(golden, drop=multitask)
  np.testing.assert_array_equal(
    encoder_attention(mask, is_prompt, NAMES[name]),
    golden[f'ext_encoder_{name}_multitask{multitask}'] > 0,
  )


@pytest.mark.parametrize('multitask', [0, 1])
def test_released_default_is_causal_among_prompts_and_ours_is_not(multitask):
  golden = _read()
  _, mask, is_prompt = _placed(golden, drop=multitask)
  released = golden[f'ext_encoder_default_none_multitask{multitask}'] > 0
  np.testing.assert_array_equal(
    encoder_attention(mask, is_prompt, NAMES['pc_pi']), released
  )
  ours = encoder_attention(mask, is_prompt)
  later = jnp.triu(is_prompt[:, :, None] & is_prompt[:, None, :], 1)[:, None]
  np.testing.assert_array_equal(ours & ~released, later)


@pytest.mark.parametrize('kind', ['causal', 'prefix'])
@pytest.mark.parametrize('name', [None, *NAMES])
def test_decoder_attention(name, kind):
  golden = _read()
  _, mask, is_prompt = _placed(golden, golden['decoder_targets'])
  prefix = golden['decoder_causal_attention'] if kind == 'prefix' else None
  expected = 'decoder_only_mask' if name is None else f'ext_decoder_{name}'
  np.testing.assert_array_equal(
    decoder_attention(mask, is_prompt, name and NAMES[name], prefix),
    golden[f'{expected}_{kind}'] > 0,
  )
