"""Sampling against frequencies and a toy model, scores against NumPy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.t5 import beam, decode
from tests.t5.toy_decoder import (
  EOS,
  constant_step,
  counting,
  log_prob_of,
  log_probs_after,
  padded,
  tables,
  toy_cache,
  toy_step,
)

# Greedy


def test_greedy_takes_the_likeliest_token_of_the_whole_history():
  table = tables(3, batch_size=5, vocab_size=7)
  tokens, log_probs = decode.greedy(toy_step, toy_cache(table, 11), 5, 11)
  assert tokens.shape == (5, 1, 11) and tokens.dtype == jnp.int32
  assert log_probs.shape == (5, 1) and log_probs.dtype == jnp.float32
  for b in range(5):
    sequence = ()
    while len(sequence) < 11 and EOS not in sequence:
      best = int(np.argmax(log_probs_after(table[b], sequence)))
      sequence = (*sequence, best)
    assert tokens[b, 0].tolist() == padded(sequence, 11)
    np.testing.assert_allclose(
      log_probs[b, 0], log_prob_of(table[b], sequence), rtol=1e-5
    )
  ended = np.any(np.asarray(tokens[:, 0]) == EOS, axis=1)
  assert ended.any() and not ended.all()  # both ends were exercised


def test_start_id_is_fed_and_not_returned():
  table = tables(5, batch_size=3, vocab_size=7, eos_bonus=-9)
  tokens, _ = decode.greedy(toy_step, toy_cache(table, 2), 3, 2, start_id=5)
  for b in range(3):
    best = np.argmax(log_probs_after(table[b], (), start_id=5))
    assert tokens[b, 0, 0] == best


def test_eos_id_is_the_callers():
  logits = [0.0, 9.0, 1.0, 2.0, 10.0]
  tokens, log_probs = decode.greedy(constant_step(logits), {}, 2, 3, eos_id=4)
  assert tokens.tolist() == [[[4, 0, 0]]] * 2
  np.testing.assert_allclose(
    log_probs, np.full((2, 1), jax.nn.log_softmax(jnp.array(logits))[4])
  )


@pytest.mark.parametrize(
  'settings',
  [
    {'temperature': 0.0, 'top_k': 0},
    {'temperature': 1e-4, 'top_k': 5},
    {'temperature': 0.0, 'top_k': 0, 'top_p': 0.9},
    {'temperature': 2.0, 'top_k': 1},
    {'temperature': 1.0, 'top_k': 0, 'top_p': 1e-9},
    {'temperature': 2e-4, 'top_k': 0},
  ],
)
def test_limits_of_sampling_are_greedy(settings):
  cache = toy_cache(tables(3, batch_size=5, vocab_size=7), 7)
  tokens, log_probs = decode.greedy(toy_step, cache, 5, 7)
  drawn, drawn_log_probs = decode.sample(
    toy_step, cache, 5, 7, rng=jax.random.key(2), **settings
  )
  np.testing.assert_array_equal(drawn, tokens)
  np.testing.assert_array_equal(drawn_log_probs, log_probs)


# Sampling

DRAWS = 4001
PROBS = np.array([0.05, 0.11, 0.34, 0.2, 0.3])


def filtered(settings):
  """The distribution to be drawn from, by hand for PROBS."""
  probs = PROBS ** (1 / settings.get('temperature', 1.0))
  if settings.get('top_k'):
    probs[np.argsort(-probs)[settings['top_k'] :]] = 0
  if settings.get('top_p'):
    probs /= probs.sum()
    order = np.argsort(-probs)
    needed = np.searchsorted(np.cumsum(probs[order]), settings['top_p']) + 1
    probs[order[needed:]] = 0
  return probs / probs.sum()


@pytest.mark.parametrize(
  'settings, support',
  [
    ({'top_k': 0}, {0, 1, 2, 3, 4}),
    ({'top_k': 3}, {2, 3, 4}),
    ({'top_k': 17}, {0, 1, 2, 3, 4}),
    ({'top_k': 0, 'top_p': 0.6}, {2, 4}),
    ({'top_k': 0, 'top_p': 0.7}, {2, 3, 4}),
    ({'top_k': 0, 'top_p': 1.0}, {0, 1, 2, 3, 4}),
    ({'top_k': 2, 'temperature': 0.5}, {2, 4}),
    # hotter: 0.6 is no longer reached by two tokens
    ({'top_k': 0, 'top_p': 0.6, 'temperature': 3.0}, {2, 3, 4}),
  ],
)
def test_frequencies_and_log_probs(settings, support):
  tokens, log_probs = decode.sample(
    constant_step(np.log(PROBS)),
    {},
    1,
    1,
    rng=jax.random.key(7),
    num_decodes=DRAWS,
    **settings,
  )
  drawn = np.asarray(tokens)[0, :, 0]
  expected = filtered(settings)
  assert set(np.flatnonzero(expected)) == support == set(drawn.tolist())
  frequency = np.bincount(drawn, minlength=5) / DRAWS
  # five standard deviations of a binomial share
  bound = 5 * np.sqrt(expected * (1 - expected) / DRAWS)
  assert np.all(np.abs(frequency - expected) <= bound)
  # of the model's own distribution, whatever was filtered
  np.testing.assert_allclose(log_probs[0], np.log(PROBS)[drawn], rtol=1e-5)


def test_tokens_as_likely_as_the_last_one_kept_stay():
  step = constant_step(np.log([0.1, 0.1, 0.4, 0.2, 0.2]))
  for settings in ({'top_k': 2}, {'top_k': 0, 'top_p': 0.5}):
    tokens, _ = decode.sample(
      step, {}, 1, 1, rng=jax.random.key(3), num_decodes=211, **settings
    )
    assert set(np.unique(tokens)) == {2, 3, 4}


def test_decodes_are_independent_sorted_and_scored_by_the_model():
  table = tables(11, batch_size=3, vocab_size=5)
  draw = functools.partial(
    decode.sample, toy_step, toy_cache(table, 5), 3, 5, top_k=0, num_decodes=7
  )
  tokens, log_probs = draw(rng=jax.random.key(2))
  assert tokens.shape == (3, 7, 5) and log_probs.shape == (3, 7)
  assert np.all(np.diff(log_probs, axis=1) >= 0)
  for b, k in itertools.product(range(3), range(7)):
    sequence = tokens[b, k].tolist()
    if EOS in sequence:
      end = sequence.index(EOS) + 1
      assert not any(sequence[end:])  # padded with 0 after EOS
      sequence = sequence[:end]
    np.testing.assert_allclose(
      log_probs[b, k], log_prob_of(table[b], sequence), rtol=1e-5, atol=1e-5
    )
  assert len({tuple(row) for row in tokens[0].tolist()}) > 1
  again, _ = draw(rng=jax.random.key(2))
  np.testing.assert_array_equal(again, tokens)
  other, _ = draw(rng=jax.random.key(3))
  assert not np.array_equal(other, tokens)


def test_without_a_key_every_call_draws_the_same():
  step = constant_step(np.log(PROBS))
  first, _ = decode.sample(step, {}, 2, 5, top_k=0)
  second, _ = decode.sample(step, {}, 2, 5, top_k=0, rng=jax.random.key(0))
  np.testing.assert_array_equal(first, second)


def test_sampling_stops_when_every_row_has_ended():
  # from the start token to 2, to 3, to EOS: three steps of thirteen
  table = np.zeros((3, 5, 5), np.float32)
  table[:, [0, 2, 3], [2, 3, EOS]] = 50
  table[0, 0] = [0, 50, 0, 0, 0]  # the first row ends at once
  seen = []
  tokens, _ = decode.greedy(
    counting(toy_step, seen), toy_cache(table, 13), 3, 13
  )
  jax.effects_barrier()
  assert sorted(seen) == [0, 1, 2]
  assert tokens[0, 0].tolist() == padded([EOS], 13)
  assert tokens[1, 0].tolist() == padded([2, 3, EOS], 13)


# Any search under jit


@pytest.mark.parametrize(
  'search',
  [
    functools.partial(decode.sample, top_k=3, num_decodes=3),
    functools.partial(beam.beam_search, num_beams=3),
  ],
)
def test_step_may_close_over_traced_parameters(search):
  table = tables(29, batch_size=2, vocab_size=7)
  params = jnp.asarray(tables(31, batch_size=1, vocab_size=7)[0, 0])

  def run(params, cache):
    def step(tokens, cache):
      logits, cache = toy_step(tokens, cache)
      return logits + params[None, :], cache

    return search(step, cache, 2, 5)

  tokens, scores = run(params, toy_cache(table, 5))
  jitted, jitted_scores = jax.jit(run)(params, toy_cache(table, 5))
  np.testing.assert_array_equal(jitted, tokens)
  np.testing.assert_allclose(jitted_scores, scores, rtol=1e-5)


# Scores of given targets


def test_score_sums_weighted_log_probs():
  rng = np.random.default_rng(37)
  logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
  targets = rng.integers(0, 7, size=(3, 5)).astype(np.int32)
  weights = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
  got = decode.score(logits, targets, weights.astype(np.float32))
  expected = np.zeros(3)
  for b, u in itertools.product(range(3), range(5)):
    log_probs = logits[b, u] - np.logaddexp.reduce(logits[b, u])
    expected[b] += weights[b, u] * log_probs[targets[b, u]]
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert got.shape == (3,) and got.dtype == jnp.float32


def test_impossible_target_without_weight_is_silent():
  logits = jnp.zeros((1, 2, 3)).at[0, 1, 0].set(-jnp.inf)
  got = decode.score(
    logits, jnp.zeros((1, 2), jnp.int32), jnp.array([[1.0, 0.0]])
  )
  np.testing.assert_allclose(got, [-math.log(3)], rtol=1e-6)


def test_score_of_a_decode_is_its_log_prob():
  table = tables(41, batch_size=3, vocab_size=7)
  tokens, log_probs = decode.greedy(toy_step, toy_cache(table, 5), 3, 5)
  targets = tokens[:, 0]
  ended = jnp.cumsum(targets == EOS, axis=1) - (targets == EOS)
  cache, token, logits = toy_cache(table, 5), jnp.zeros((3, 1), jnp.int32), []
  for u in range(5):
    now, cache = toy_step(token, cache)
    logits.append(now)
    token = targets[:, u : u + 1]
  got = decode.score(
    jnp.stack(logits, axis=1), targets, (ended == 0).astype(jnp.float32)
  )
  np.testing.assert_allclose(got, log_probs[:, 0], rtol=1e-5)


# Errors


@pytest.mark.parametrize(
  'settings, text',
  [
    (
      {'top_p': 0.9},
      'top_k is 1 and top_p is 0.9; expected at most one of them to be '
      'nonzero while decoding. Set top_k=0 to draw with top_p (top_k is 1 '
      'unless set), or top_p=0 to draw with top_k.',
    ),
    (
      {'temperature': 0.0, 'top_k': 3, 'top_p': 0.5},
      'top_k is 3 and top_p is 0.5; expected at most one',
    ),
    ({'top_k': -1}, 'top_k is -1; expected a whole number of at least 0'),
    ({'top_k': 2.5}, 'top_k is 2.5; expected a whole number of at least 0'),
    (
      {'temperature': -0.5},
      'temperature is -0.5; expected a number from 0 to inf while decoding. '
      'Set temperature inside that range.',
    ),
    (
      {'temperature': math.nan},
      'temperature is nan; expected a number from 0 to inf',
    ),
    ({'top_k': 0, 'top_p': 1.5}, 'top_p is 1.5; expected a number from 0 to 1'),
    (
      {'num_decodes': 0},
      'num_decodes is 0; expected a whole number of at least 1 while '
      'decoding. Set num_decodes to 1 or more.',
    ),
    ({'max_length': 0}, 'max_length is 0; expected a whole number'),
    ({'batch_size': 0}, 'batch_size is 0; expected a whole number'),
  ],
)
def test_sampling_settings_out_of_range(settings, text):
  settings = {'batch_size': 2, 'max_length': 3, **settings}
  with pytest.raises(UserError) as error:
    decode.sample(constant_step(np.log(PROBS)), {}, **settings)
  assert str(error.value).startswith(text)


@pytest.mark.parametrize('search', [decode.greedy, beam.beam_search])
def test_cache_without_rows_first(search):
  cache = {'bias': jnp.zeros((1, 7, 2, 3)), 'position': jnp.int32(0)}
  with pytest.raises(ValueError) as error:
    search(constant_step(np.log(PROBS)), cache, 2, 3)
  assert str(error.value) == (
    "Cache leaf ['bias'] has shape (1, 7, 2, 3); expected 2 rows (the batch "
    'size) on its first axis while decoding. Put the rows first; close over '
    'what has none in the step function.'
  )


def test_first_largest_is_argmax():
  drawn = jax.random.randint(jax.random.key(0), (13, 3, 17), -2, 3)
  x = drawn.astype(jnp.float32).at[0].set(-jnp.inf).at[1, 0].set(0.0)
  found = jax.jit(decode.first_largest)(x)  # nearly every row has ties
  np.testing.assert_array_equal(found, jnp.argmax(x, axis=-1))
  assert found.dtype == jnp.int32
