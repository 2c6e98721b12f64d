"""Losses over labels, and the distance to a text, against released code.

The extended perceptron and wayward parts of Lester et al. 2021.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import Prompt, wayward
from prompt_jax.training import ranking
from prompt_jax.training.step import Call
from tests.parity.golden import config_of, part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-5, atol=1e-5)  # README of the folder
CLOSE_MODEL = dict(rtol=1e-4, atol=2e-5)
OURS, THEIRS = 'encoder/prompt/prompt', 'encoder/prompt/prompt/prompt'
Z_LOSS = 1e-4  # README of the folder
KINDS = {'perceptron': ranking.hinge, 'cross_entropy': ranking.softmax}
every_kind = pytest.mark.parametrize('kind', KINDS)


@functools.cache
def _read():
  """(stored, model, parameters, labels of each input)."""
  stored = np.load(fixtures('prompt_tuning') / 'model_perceptron.npz')
  flat = part(stored, 'params/')
  flat[OURS] = flat.pop(THEIRS)
  model = PromptEncoderDecoder(
    config_of(flat),
    encoder_prompt=functools.partial(Prompt, len(flat[OURS])),
  )
  inputs = stored['batch/encoder_input_tokens']
  assert (inputs == inputs[:, :1]).all()  # one input, as often as labels
  targets = stored['batch/decoder_target_tokens']
  weights = stored['batch/decoder_loss_weights']
  np.testing.assert_array_equal(weights > 0, targets > 0)
  return stored, model, flat, jnp.asarray(inputs[:, 0]), jnp.asarray(targets)


def _scores(prompt, by_length):
  _, model, flat, inputs, targets = _read()
  call = Call(model, flat | {OURS: prompt})
  ids = jnp.zeros(len(inputs), jnp.int32)
  return ranking.label_scores(call, inputs, ids, targets, by_length)


@every_kind
@pytest.mark.parametrize('suffix', ['', '_unnormalized'])
def test_scores(kind, suffix):
  stored, _, flat, _, _ = _read()
  got = jax.jit(functools.partial(_scores, by_length=not suffix))(flat[OURS])
  wanted = stored[f'{kind}_scores{suffix}']
  np.testing.assert_allclose(got, wanted, **CLOSE_MODEL)


@every_kind
def test_loss_and_gradient(kind):
  stored, _, flat, _, _ = _read()
  right = jnp.asarray(stored['batch/is_correct'])

  def total(prompt):
    return KINDS[kind](_scores(prompt, True), right, Z_LOSS).sum()

  value, got = jax.jit(jax.value_and_grad(total))(flat[OURS])
  np.testing.assert_allclose(value, stored[f'{kind}_loss'], **CLOSE_MODEL)
  wanted = stored[f'{kind}_grad_prompt']
  np.testing.assert_allclose(got, wanted, **CLOSE_MODEL)


@every_kind
def test_prediction(kind):
  stored, _, flat, _, targets = _read()
  best = np.argmax(_scores(flat[OURS], True), axis=1)
  said = np.asarray(targets)[np.arange(len(best)), best]
  np.testing.assert_array_equal(said, stored[f'{kind}_predict'])


@every_kind
def test_ranking_of_a_batch_is_the_criterion_of_its_labels(kind):
  stored, model, flat, inputs, targets = _read()
  right = np.argmax(stored['batch/is_correct'], axis=1)
  for row in range(len(inputs)):
    # the same labels for all inputs there are, so one row at a time
    texts = [str(i) for i in range(targets.shape[1])]
    ids = {
      t: [x for x in np.asarray(targets)[row, int(t)] if x > 1] for t in texts
    }
    loss = ranking.Ranking(texts, ids.get, KINDS[kind])
    gold = targets[row, right[row]][None]
    batch = {
      'encoder_input_tokens': inputs[row][None],
      'decoder_target_tokens': gold,
      'decoder_loss_weights': (gold > 0).astype(jnp.float32),
      'task_ids': jnp.zeros(1, jnp.int32),
    }
    value, sums = loss(Call(model, flat), batch, z_loss=Z_LOSS)
    scores = jnp.asarray(stored[f'{kind}_scores'])[row][None]
    is_right = jnp.asarray(stored['batch/is_correct'])[row][None]
    wanted = KINDS[kind](scores, is_right, Z_LOSS)[0]
    np.testing.assert_allclose(value, wanted, **CLOSE_MODEL)
    assert sums['weights'] == 1
    assert sums['correct'] == (np.argmax(scores) == right[row])


def test_distance_to_a_text():
  stored = np.load(fixtures('prompt_tuning') / 'wayward.npz')
  prompt, anchor = (jnp.asarray(stored[k]) for k in ('prompt', 'discrete'))
  got = wayward.distance(prompt, anchor)
  np.testing.assert_allclose(got, stored['distance'], **CLOSE)
  rows = [wayward.distance(row[None], 0 * row[None]) for row in prompt]
  np.testing.assert_allclose(jnp.stack(rows), stored['squared_l2'], **CLOSE)
  assert wayward.Wayward.weight == stored['gamma']
