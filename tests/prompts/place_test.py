"""Placement and attention rules, against loops over single positions."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts.place import (
  ATTENTION,
  WHERE,
  decoder_attention,
  encoder_attention,
  place,
)

B, P, T, H = 5, 3, 7, 11
COUNTS = (7, 4, 1, 2, 0)  # real tokens; the last row only pads the batch
MASK = jnp.arange(T)[None] < jnp.array(COUNTS)[:, None]
STARTS = {
  'prefix': lambda n: 0,
  'after_bos': lambda n: 1,
  'before_eos': lambda n: max(n - 1, 0),
  'after_eos': lambda n: n,
}
NAMES = [
  subset for n in range(6) for subset in itertools.combinations(ATTENTION, n)
]


def _arrays():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return draw(B, P, H), draw(B, T, H)


@pytest.mark.parametrize('where', WHERE)
def test_each_row_is_the_input_cut_where_the_prompt_stands(where):
  prompt, embeds = _arrays()
  placed = jax.jit(place, static_argnums=3)(prompt, embeds, MASK, where)
  assert placed.embeds.shape == (B, P + T, H)
  assert placed.mask.shape == placed.is_prompt.shape == (B, P + T)
  for b, n in enumerate(COUNTS):
    s = STARTS[where](n)
    cut = lambda row, new, s=s: np.concatenate([row[:s], new, row[s:]])
    np.testing.assert_array_equal(placed.embeds[b], cut(embeds[b], prompt[b]))
    np.testing.assert_array_equal(placed.mask[b], cut(MASK[b], [True] * P))
    np.testing.assert_array_equal(
      placed.is_prompt[b], cut([False] * T, [True] * P)
    )


@pytest.mark.parametrize('where', WHERE)
def test_padding_stays_last_and_every_input_token_stays(where):
  placed = place(*_arrays(), MASK, where)
  if where != 'after_bos':  # after_bos: a row without BOS has padding first
    mask = placed.mask.astype(int)
    assert bool((jnp.diff(mask, axis=1) <= 0).all())
  np.testing.assert_array_equal(placed.mask.sum(1), np.array(COUNTS) + P)
  assert bool((placed.is_prompt <= placed.mask).all())


@pytest.mark.parametrize('where', WHERE)
def test_result_has_the_dtype_of_the_input(where):
  prompt, embeds = _arrays()
  placed = place(prompt, embeds.astype(jnp.bfloat16), MASK, where)
  assert placed.embeds.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    placed.embeds[1][placed.is_prompt[1]], prompt[1].astype(jnp.bfloat16)
  )
  assert placed.mask.dtype == placed.is_prompt.dtype == bool


@pytest.mark.parametrize('where', WHERE)
def test_gradient_reaches_every_prompt_row_once(where):
  prompt, embeds = _arrays()
  total = lambda prompt: place(prompt, embeds, MASK, where).embeds.sum()
  np.testing.assert_array_equal(jax.grad(total)(prompt), np.ones((B, P, H)))


def test_unknown_placement_names_the_nearest():
  with pytest.raises(UserError, match="'sufix'; expected .* 'before_eos'"):
    place(*_arrays(), MASK, 'sufix')
  with pytest.raises(UserError, match="Nearest: 'prefix'"):
    place(*_arrays(), MASK, 'prefx')


@pytest.mark.parametrize(
  'prompt, mask',
  [((B, P, 13), (B, T)), ((B - 1, P, H), (B, T)), ((B, P, H), (B, T + P))],
)
def test_shapes_that_do_not_fit_are_all_named(prompt, mask):
  text = f'prompt {list(prompt)} in an input [5, 7, 11] with a mask'
  with pytest.raises(UserError, match=re.escape(text)):
    place(jnp.zeros(prompt), jnp.zeros((B, T, H)), jnp.ones(mask, bool))


def _sees(i, j, is_prompt, is_input, names):
  """May position i see position j: the rules in words, one pair at a time."""
  if is_input[i]:
    return is_input[j] or is_prompt[j]
  if not is_prompt[i]:
    return False
  if is_prompt[j]:
    if 'prompt->prompt;causal' in names:
      return j <= i
    return 'prompt->prompt' in names or i == j
  return is_input[j] and 'prompt->input' in names


@pytest.mark.parametrize('where', WHERE)
@pytest.mark.parametrize('names', NAMES[::3] + [ATTENTION], ids='+'.join)
def test_encoder_rules_hold_for_any_placement(where, names):
  placed = place(*_arrays(), MASK, where)
  found = encoder_attention(placed.mask, placed.is_prompt, names)
  assert found.shape == (B, 1, P + T, P + T) and found.dtype == bool
  for b in range(B):
    prompt = np.asarray(placed.is_prompt[b])
    real = np.asarray(placed.mask[b]) & ~prompt
    expected = [
      [_sees(i, j, prompt, real, names) for j in range(P + T)]
      for i in range(P + T)
    ]
    np.testing.assert_array_equal(found[b, 0], expected)


@pytest.mark.parametrize('where', WHERE)
def test_without_names_every_real_position_sees_every_real_one(where):
  placed = place(*_arrays(), MASK, where)
  real = np.asarray(placed.mask)
  np.testing.assert_array_equal(
    encoder_attention(placed.mask, placed.is_prompt)[:, 0],
    real[:, :, None] & real[:, None, :],
  )
  all_but_causal = set(ATTENTION) - {'prompt->prompt;causal'}
  np.testing.assert_array_equal(
    encoder_attention(placed.mask, placed.is_prompt),
    encoder_attention(placed.mask, placed.is_prompt, all_but_causal),
  )


@pytest.mark.parametrize('where', WHERE)
@pytest.mark.parametrize('names', NAMES[::5] + [ATTENTION], ids='+'.join)
def test_decoder_rules_hold_for_any_placement(where, names):
  inputs = np.arange(T)[None] < np.array(COUNTS)[:, None] - 2
  placed = place(*_arrays(), MASK, where)
  found = decoder_attention(placed.mask, placed.is_prompt, names, inputs)
  plain = decoder_attention(placed.mask, placed.is_prompt, None, inputs)
  for b in range(B):
    prompt, real = np.asarray(placed.is_prompt[b]), np.asarray(placed.mask[b])
    prefix = np.zeros(P + T, bool)
    prefix[~prompt] = inputs[b]
    seen = prefix | prompt
    for i, j in itertools.product(range(P + T), repeat=2):
      both, among = real[i] and real[j], _sees(i, j, prompt, prefix, names)
      earlier = j <= i
      assert plain[b, 0, i, j] == (both and (earlier or seen[i] and seen[j]))
      earlier = earlier and not prompt[i]
      assert found[b, 0, i, j] == (both and (earlier or among))


@pytest.mark.parametrize('names', [None, (), ATTENTION])
def test_decoder_without_a_prefix_is_causal(names):
  placed = place(*_arrays(), MASK, 'after_bos')
  real = np.asarray(placed.mask)
  np.testing.assert_array_equal(
    decoder_attention(placed.mask, placed.is_prompt, names)[:, 0],
    np.tril(real[:, :, None] & real[:, None, :]),
  )


@pytest.mark.parametrize('rule', [encoder_attention, decoder_attention])
def test_unknown_relation_names_the_nearest(rule):
  mask = jnp.ones((2, 3), bool)
  text = r"\['prompt->prompts'\]; expected .* Nearest .* 'prompt->prompt'"
  with pytest.raises(UserError, match=text):
    rule(mask, mask, ['prompt->prompts', 'input->input'])


def test_the_set_of_the_caller_stays_as_it_was():
  placed, names = place(*_arrays(), MASK), {'prompt->input'}
  encoder_attention(placed.mask, placed.is_prompt, names)
  decoder_attention(placed.mask, placed.is_prompt, names, MASK)
  assert names == {'prompt->input'}


def test_a_single_name_is_one_relation():
  placed = place(*_arrays(), MASK)
  np.testing.assert_array_equal(
    encoder_attention(placed.mask, placed.is_prompt, 'prompt->input'),
    encoder_attention(placed.mask, placed.is_prompt, ['prompt->input']),
  )
