"""Decoding step by step against the teacher-forced model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params, predict
from prompt_jax.errors import UserError
from prompt_jax.predict import Decoding
from tests import models

U = 7
CLOSE = dict(rtol=1e-4, atol=1e-4)


def _forced(rows, targets):
  """The batch with other targets."""
  weights = jnp.asarray(targets > 0, jnp.float32)
  return rows | {
    'decoder_target_tokens': targets,
    'decoder_input_tokens': jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_loss_weights': weights,
  }


def _whole(tokens):
  """Rows that targets can say: padding only after EOS, never drawn.

  A random model may draw the padding id, which teacher forcing leaves out.
  """
  tokens = np.asarray(tokens)
  falls = (np.diff((tokens > 0).astype(int), axis=1) <= 0).all(1)
  whole = falls & ((tokens == 1).any(1) | (tokens > 0).all(1))
  assert whole.any()
  return whole


def _ending(model):
  """Parameters under which some rows end in EOS and others do not."""
  flat = models.initial(model)
  return flat | {
    'decoder/logits_dense/kernel': 3 * flat['decoder/logits_dense/kernel']
  }


@pytest.mark.parametrize('source', models.SOURCES)
def test_greedy_tokens_are_the_teacher_forced_argmax(source):
  model = models.make(source)
  flat, rows = _ending(model), models.batch()
  tokens, log_probs = jax.jit(predict.decoder(model, U))(flat, rows)
  tokens = tokens[:, 0]
  forced = _forced(rows, tokens)
  logits = np.asarray(models.logits(model, flat, forced))
  whole = _whole(tokens)
  real = (np.asarray(tokens) > 0) & whole[:, None]
  np.testing.assert_array_equal(
    logits.argmax(-1)[real], np.asarray(tokens)[real]
  )
  scores = jax.jit(predict.scorer(model))(flat, forced)
  np.testing.assert_allclose(log_probs[whole, 0], scores[whole], **CLOSE)


@pytest.mark.parametrize('source', ['plain', 'both'])
def test_scores_of_beams_are_those_of_their_tokens(source):
  model = models.make(source)
  flat, rows = _ending(model), models.batch()
  run = predict.decoder(model, U, Decoding('beam', 3, alpha=0.0))
  tokens, scores = jax.jit(run)(flat, rows)
  assert tokens.shape == (len(models.INPUTS), 3, U)
  assert (np.diff(scores, axis=1) >= 0).all()  # the best is last
  scorer = jax.jit(predict.scorer(model))
  for n in range(3):
    # not a place left empty
    real = (np.asarray(scores[:, n]) > -1e6) & _whole(tokens[:, n])
    again = scorer(flat, _forced(rows, tokens[:, n]))
    np.testing.assert_allclose(scores[real, n], again[real], **CLOSE)


def test_samples_are_scored_by_the_model_and_repeat_with_their_seed():
  model = models.make('encoder')
  flat, rows = models.initial(model), models.batch()
  draw = lambda seed: jax.jit(
    predict.decoder(model, U, Decoding('sample', 2, seed=seed))
  )(flat, rows)
  (tokens, log_probs), same, other = draw(3), draw(3), draw(5)
  np.testing.assert_array_equal(tokens, same[0])
  assert (tokens != other[0]).any()
  scorer = jax.jit(predict.scorer(model))
  for n in range(2):
    again = scorer(flat, _forced(rows, tokens[:, n]))
    whole = _whole(tokens[:, n])
    np.testing.assert_allclose(log_probs[whole, n], again[whole], **CLOSE)


@pytest.mark.parametrize('source', ['both', 'tasks'])
def test_ranks_are_the_scores_of_each_label(source):
  model = models.make(source)
  flat, rows = models.initial(model), models.batch()
  labels = jnp.array([[5, 1, 0], [7, 11, 1], [2, 1, 0], [1, 0, 0], [3, 4, 1]])
  scores = jax.jit(predict.ranker(model))(flat, rows, labels)
  assert scores.shape == (len(models.INPUTS), len(labels))
  scorer = jax.jit(predict.scorer(model))
  for c, label in enumerate(labels):
    targets = jnp.broadcast_to(label, (len(models.INPUTS), 3))
    alone = scorer(flat, _forced(rows, targets))
    np.testing.assert_allclose(scores[:, c], alone, **CLOSE)


def test_bfloat16_decodes_what_it_scores():
  model = models.make('both', activation_dtype='bfloat16')
  flat, rows = _ending(model), models.batch()
  tokens, log_probs = jax.jit(predict.decoder(model, U))(flat, rows)
  scores = jax.jit(predict.scorer(model))(flat, _forced(rows, tokens[:, 0]))
  # bfloat16 keeps 8 bits; the two passes round other sums
  whole = _whole(tokens[:, 0])
  np.testing.assert_allclose(
    log_probs[whole, 0], scores[whole], rtol=0.03, atol=0.1
  )


def test_decoding_starts_without_a_pass_of_the_decoder():
  model, rows = models.make(), models.batch()
  variables = {'params': params.unflatten(models.initial(model))}
  start = lambda encoded: model.apply(
    variables, encoded, U, method='start', mutable=['cache']
  )
  encoded = predict.encode(model, models.initial(model), rows)
  compiled = jax.jit(start).lower(encoded).compile()
  # keys and values of every layer's cross attention, and next to nothing else
  one = 2 * np.prod([*encoded.states.shape, models.N * models.K])
  both = 2 * models.DECODER_LAYERS * one
  assert both <= compiled.cost_analysis()['flops'] < 1.05 * both
  _, made = compiled(encoded)
  assert int(made['cache']['decoder']['cursor']['position']) == 0


def test_unknown_method_shows_the_known():
  with pytest.raises(UserError) as caught:
    Decoding('nucleus')
  assert str(caught.value) == (
    "Decoding.method is 'nucleus'; expected one of "
    "('greedy', 'sample', 'beam')."
  )
