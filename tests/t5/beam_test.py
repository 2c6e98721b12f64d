"""Beam search against enumeration and an oracle that keeps plain lists."""

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


def penalty(length, alpha):
  return ((5 + length) / 6) ** alpha


def beam_oracle(table, num_beams, max_length, alpha):
  """[(score, sequence)] ascending, from lists of real sequences only."""
  live, finished = [(0.0, ())], []
  for length in range(1, max_length + 1):
    grown = sorted(
      (log_prob + gain, (*prefix, token))
      for log_prob, prefix in live
      for token, gain in enumerate(log_probs_after(table, prefix))
    )[-2 * num_beams :]
    ended = [(p, s) for p, s in grown if s[-1] == EOS]
    live = [(p, s) for p, s in grown if s[-1] != EOS][-num_beams:]
    finished += [(p / penalty(length, alpha), s) for p, s in ended]
    finished = sorted(finished)[-num_beams:]
  return finished or live


@pytest.mark.parametrize('alpha', [0.0, 0.6])
def test_wide_beam_finds_every_sequence(alpha):
  # 41 beams of 5 tokens drop nothing in 3 steps: at most 80 continuations
  table = tables(13, batch_size=2, vocab_size=5)
  tokens, scores = beam.beam_search(
    toy_step, toy_cache(table, 3), 2, 3, num_beams=41, alpha=alpha
  )
  assert tokens.shape == (2, 41, 3) and tokens.dtype == jnp.int32
  assert scores.shape == (2, 41) and scores.dtype == jnp.float32
  for b in range(2):
    every = sorted(
      (
        log_prob_of(table[b], (*body, EOS)) / penalty(length, alpha),
        padded((*body, EOS), 3),
      )
      for length in (1, 2, 3)
      for body in itertools.product((0, 2, 3, 4), repeat=length - 1)
    )
    found = len(every)  # 1 + 4 + 16
    assert tokens[b, -found:].tolist() == [sequence for _, sequence in every]
    np.testing.assert_allclose(
      scores[b, -found:], [score for score, _ in every], rtol=1e-5
    )
    assert np.all(scores[b, :-found] < -1e6)


@pytest.mark.parametrize('alpha', [0.0, 0.6])
@pytest.mark.parametrize('num_beams', [1, 2, 3])
@pytest.mark.parametrize('eos_bonus', [1.0, -2.0])
def test_narrow_beam_equals_the_oracle(num_beams, alpha, eos_bonus):
  table = tables(17, batch_size=5, vocab_size=7, eos_bonus=eos_bonus)
  tokens, scores = beam.beam_search(
    toy_step, toy_cache(table, 6), 5, 6, num_beams=num_beams, alpha=alpha
  )
  for b in range(5):
    expected = beam_oracle(table[b], num_beams, 6, alpha)
    assert expected
    found = len(expected)
    assert tokens[b, -found:].tolist() == [padded(s, 6) for _, s in expected]
    np.testing.assert_allclose(
      scores[b, -found:], [score for score, _ in expected], rtol=1e-5
    )


def test_without_any_end_live_sequences_come_with_log_probs():
  table = tables(19, batch_size=3, vocab_size=7, eos_bonus=-60)
  table[1, :, EOS] += 60  # its own row may end: rows are treated one by one
  tokens, scores = beam.beam_search(
    toy_step, toy_cache(table, 4), 3, 4, num_beams=3, alpha=0.6
  )
  for b in (0, 2):
    assert not np.any(tokens[b] == EOS)
    assert np.all(np.diff(scores[b]) >= 0)
    for k in range(3):
      np.testing.assert_allclose(
        scores[b, k],
        log_prob_of(table[b], tokens[b, k].tolist()),
        rtol=1e-5,
      )
  assert np.any(tokens[1] == EOS)


def one_good_continuation():
  """EOS at 0.40 is likeliest; 2 at 0.39 is followed by EOS for sure."""
  table = np.full((1, 5, 5), -50, np.float32)
  table[0, 0] = np.log([0.07, 0.40, 0.39, 0.07, 0.07])
  table[0, 2, EOS] = 50
  return table


def test_one_beam_is_not_greedy():
  cache = toy_cache(one_good_continuation(), 3)
  tokens, _ = decode.greedy(toy_step, cache, 1, 3)
  assert tokens.tolist() == [[[EOS, 0, 0]]]
  tokens, scores = beam.beam_search(toy_step, cache, 1, 3)
  assert tokens.tolist() == [[[2, EOS, 0]]]
  np.testing.assert_allclose(
    scores, [[math.log(0.39) / penalty(2, 0.6)]], rtol=1e-5
  )
  tokens, scores = beam.beam_search(toy_step, cache, 1, 3, alpha=0.0)
  assert tokens.tolist() == [[[EOS, 0, 0]]]
  np.testing.assert_allclose(scores, [[math.log(0.4)]], rtol=1e-5)


def test_search_stops_when_no_live_sequence_can_win():
  # alpha 0: after one step the finished log 0.4 beats the live log 0.39.
  # alpha 0.6: the live one could still win and does at the second step; what
  # is left alive then is hopeless.
  for alpha, steps in ((0.0, [0]), (0.6, [0, 1])):
    seen = []
    beam.beam_search(
      counting(toy_step, seen),
      toy_cache(one_good_continuation(), 13),
      1,
      13,
      alpha=alpha,
    )
    jax.effects_barrier()
    assert sorted(seen) == steps


def test_search_stops_when_nothing_is_left_alive():
  # Only EOS is possible, so two of three places can never be filled.
  only_eos = constant_step([-np.inf, 0, -np.inf, -np.inf, -np.inf])

  def step(tokens, cache):
    logits, _ = only_eos(tokens, None)
    return logits, {'position': cache['position'] + 1}

  seen = []
  cache = {'position': jnp.int32(0)}
  tokens, scores = beam.beam_search(
    counting(step, seen), cache, 1, 13, num_beams=3
  )
  jax.effects_barrier()
  assert sorted(seen) == [0, 1]
  assert tokens[0, -1].tolist() == padded([EOS], 13)
  assert scores[0, -1] == 0
  assert np.all(scores[0, :-1] < -1e6)


def test_examples_do_not_depend_on_their_batch():
  table = tables(23, batch_size=5, vocab_size=7)
  tokens, scores = beam.beam_search(
    toy_step, toy_cache(table, 7), 5, 7, num_beams=3
  )
  for b in (1, 4):
    alone, alone_scores = beam.beam_search(
      toy_step, toy_cache(table[b : b + 1], 7), 1, 7, num_beams=3
    )
    np.testing.assert_array_equal(alone[0], tokens[b])
    np.testing.assert_allclose(alone_scores[0], scores[b], rtol=1e-5)


@pytest.mark.parametrize(
  'settings, text',
  [
    ({'num_beams': 0}, 'num_beams is 0; expected a whole number of at least 1'),
    ({'max_length': -2}, 'max_length is -2; expected a whole number'),
    (
      {'alpha': -0.6},
      'alpha is -0.6; expected a number of at least 0 in beam search. Below 0 '
      'the score would favour short sequences twice and the search could stop '
      'too early. Set 0.6 (the default of T5X) or 0.',
    ),
  ],
)
def test_beam_settings_out_of_range(settings, text):
  settings = {'batch_size': 2, 'max_length': 3, **settings}
  with pytest.raises(UserError) as error:
    beam.beam_search(constant_step([0.0] * 5), {}, **settings)
  assert str(error.value).startswith(text)
