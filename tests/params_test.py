"""Slash paths: selection, split and merge, differences, digests."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError

PATHS = (
  'decoder/layers_0/mlp/wi_0/kernel',
  'encoder/layers_0/attention/key/kernel',
  'encoder/layers_0/attention/key_insert/scale',
  'encoder/prompt/prompt',
  'token_embedder/embedding',
)
FLAT = {path: np.full((2, 3), n) for n, path in enumerate(PATHS)}

names = st.text('abc_1', min_size=1, max_size=3)
leaves = st.integers(0, 97).map(np.int32)
trees = st.recursive(
  st.dictionaries(names, leaves, min_size=1, max_size=5),
  lambda inner: st.dictionaries(names, leaves | inner, min_size=1, max_size=5),
  max_leaves=13,
)


@given(trees)
@settings(deadline=None)
def test_flatten_and_unflatten_are_inverse(tree):
  flat = params.flatten(tree)
  assert params.unflatten(flat) == tree
  assert list(flat) == sorted(flat)
  assert params.flatten(params.unflatten(flat)) == flat


@given(trees, st.data())
@settings(deadline=None)
def test_merge_is_the_inverse_of_split(tree, data):
  flat = params.flatten(tree)
  rates = st.sampled_from([0.3, 0.01, 1e-3])
  # whole paths, or all that starts with one letter of a path
  patterns = st.sampled_from(
    [p for path in flat for p in (path, path[0] + '.*')]
  )
  table = data.draw(st.lists(st.tuples(patterns, rates), min_size=1))
  trainable, frozen, chosen = params.split(flat, table)
  assert params.merge(trainable, frozen) == flat
  assert params.merge(frozen, trainable) == flat
  assert not trainable.keys() & frozen.keys()
  assert list(chosen) == list(trainable)
  for path, leaf in flat.items():
    first = [
      rate
      for pattern, rate in table
      if pattern == path or (pattern.endswith('.*') and pattern[0] == path[0])
    ]
    assert (path in trainable) == bool(first)
    if first:
      assert chosen[path] == first[0] and trainable[path] is leaf


def test_the_first_row_that_matches_wins():
  table = [('encoder/prompt/.*', 0.3), ('encoder/.*', 0.01)]
  trainable, frozen, rates = params.split(FLAT, table)
  assert rates == {PATHS[1]: 0.01, PATHS[2]: 0.01, PATHS[3]: 0.3}
  assert list(frozen) == [PATHS[0], PATHS[4]]
  assert trainable[PATHS[3]] is FLAT[PATHS[3]]


def test_a_row_that_is_shadowed_is_no_error_but_one_that_is_wrong_is():
  params.split(FLAT, [('.*', 0.3), ('encoder/prompt/.*', 0.01)])
  with pytest.raises(UserError):
    params.split(FLAT, [('.*', 0.3), ('encoder/promt/.*', 0.01)])


def _text(call, *args):
  with pytest.raises(UserError) as caught:
    call(*args)
  return str(caught.value)


def test_empty_table():
  assert _text(params.split, FLAT, []) == (
    'The train table is empty, so nothing would train; expected at least one '
    "(pattern, learning rate) such as ('.*/prompt/.*', 0.3)."
  )


def test_a_pattern_that_meets_nothing_shows_the_nearest():
  assert _text(params.split, FLAT, [('encoder/promt/.*', 0.3)]) == (
    "'encoder/promt/.*' in the train table matches none of the 5 paths; "
    'expected at least one. Nearest: encoder/prompt/prompt, '
    'encoder/layers_0/attention/key/kernel, '
    'encoder/layers_0/attention/key_insert/scale. '
    'A pattern has to match the whole path.'
  )


def test_a_pattern_has_to_match_the_whole_path():
  with pytest.raises(UserError, match='matches none of the 5 paths'):
    params.match('encoder', PATHS, 'inserts')
  assert params.match('enc.*', PATHS, 'inserts') == list(PATHS[1:4])


def test_a_pattern_that_is_none():
  assert _text(params.match, 'encoder/(', PATHS, 'inserts') == (
    "'encoder/(' in inserts is not a regular expression: missing ), "
    'unterminated subpattern at position 8. Expected a pattern that matches '
    'whole slash paths.'
  )


def test_nearest_reads_the_letters_of_a_pattern():
  near = params.nearest(r'encoder/prompts?/prompt', PATHS, 1)
  assert near == ['encoder/prompt/prompt']
  assert params.nearest('x', [], 3) == []
  assert len(params.nearest('encoder', PATHS)) == 3


def test_merge_refuses_a_path_twice():
  with pytest.raises(ValueError) as caught:
    params.merge({'b': 1, 'a': 2}, {'a': 3})
  assert str(caught.value) == "paths in two parts of one tree: ['a']"


def test_count():
  assert params.count({'a': np.zeros((3, 5)), 'b': np.zeros(())}) == 16


def test_difference_names_each_key():
  expected = {'a/prompt': np.zeros((7, 5)), 'b': np.zeros(3), 'c': np.zeros(2)}
  found = {'a/promt': np.zeros((7, 5)), 'b': np.zeros(5), 'c': np.ones(2)}
  assert params.difference(expected, found) == [
    'missing    a/prompt (7, 5) (nearest left-over key: a/promt)',
    'left over  a/promt (7, 5)',
    'shape      b is (5,), expected (3,)',
  ]
  assert params.difference(expected, dict(expected)) == []


def test_difference_stops_at_the_limit():
  many = {f'k{n:02}': np.zeros(2) for n in range(13)}
  assert params.difference(many, {}, limit=2) == [
    'missing    k00 (2,)',
    'missing    k01 (2,)',
    'and 11 more',
  ]
  assert len(params.difference(many, {}, limit=13)) == 13


def test_digest_is_of_bits_names_and_shapes_not_of_order():
  flat = {'b': np.arange(6, dtype=np.float32), 'a': np.float32(3)}
  same = dict(sorted(flat.items()))
  assert params.digest(flat) == params.digest(same)
  assert len(params.digest(flat)) == 16
  jax_made = {path: jnp.asarray(leaf) for path, leaf in flat.items()}
  assert params.digest(jax_made) == params.digest(flat)
  bit = flat['b'].copy()
  bit[5] = np.nextafter(bit[5], 9, dtype=np.float32)
  others = [
    {'b': bit, 'a': flat['a']},
    {'c': flat['b'], 'a': flat['a']},
    {'b': flat['b'].reshape(2, 3), 'a': flat['a']},
    {'b': flat['b'].view(np.int32), 'a': flat['a']},
    {'b': flat['b']},
  ]
  digests = {params.digest(other) for other in [flat, *others]}
  assert len(digests) == 1 + len(others)
