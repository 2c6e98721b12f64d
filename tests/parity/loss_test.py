"""Losses against T5X's on its own logits, to the tolerances stored there."""

import json

import jax
import numpy as np
import pytest

from prompt_jax.training.loss import loss, token_losses
from tests.shared import fixtures

PER_TOKEN = {'rtol': 1e-5, 'atol': 2e-5}
SCALAR_RTOL = 1e-5
MODELS = ('t5_1_0', 't5_1_1')
BATCH_TIMES_LENGTH = 2048 * 114  # T5's pretraining, the stored divisor
SCALARS = {
  'loss_plain': {'z_loss': 0.0},
  'loss_z': {},
  'loss_z_smooth': {'label_smoothing': True},
  'loss_z_norm_const': {'normalizing': BATCH_TIMES_LENGTH},
  'loss_z_norm_real': {'normalizing': 'NUM_REAL_TARGET_TOKENS'},
  'loss_z_norm_total': {'normalizing': 'NUM_TOTAL_TARGET_TOKENS'},
  'loss_z_norm_seq': {'normalizing': 'AVERAGE_PER_SEQUENCE'},
}


def _read(model):
  folder = fixtures('t5_logits')
  stored = np.load(folder / f'{model}.npz')
  batch = {
    key.removeprefix('batch/'): stored[key]
    for key in stored.files
    if key.startswith('batch/')
  }
  setting = json.loads((folder / 'config.json').read_text())[model]
  return stored, batch, setting


@pytest.mark.parametrize('model', MODELS)
def test_per_token(model):
  stored, batch, setting = _read(model)
  targets = batch['decoder_target_tokens']
  got, penalty = jax.jit(token_losses)(
    stored['out/logits'], targets, setting['z_loss']
  )
  np.testing.assert_allclose(
    got, stored['out/per_token_loss_with_z'], **PER_TOKEN
  )
  np.testing.assert_allclose(
    penalty, stored['out/per_token_z_loss'], **PER_TOKEN
  )


@pytest.mark.parametrize('name', SCALARS)
@pytest.mark.parametrize('model', MODELS)
def test_scalar(model, name):
  stored, batch, setting = _read(model)
  options = {'z_loss': setting['z_loss']} | SCALARS[name]
  if 'label_smoothing' in options:
    options['label_smoothing'] = setting['label_smoothing_in_z_smooth']
  got, _ = jax.jit(lambda logits, batch: loss(logits, batch, **options))(
    stored['out/logits'], batch
  )
  np.testing.assert_allclose(got, stored[f'out/{name}'], rtol=SCALAR_RTOL)


@pytest.mark.parametrize('model', MODELS)
def test_accuracy(model):
  stored, batch, _ = _read(model)
  _, sums = loss(stored['out/logits'], batch)
  np.testing.assert_allclose(
    sums['correct'] / sums['weights'], stored['out/accuracy'], rtol=SCALAR_RTOL
  )


@pytest.mark.parametrize('model', MODELS)
def test_scores_of_a_batch(model):
  stored, batch, _ = _read(model)
  targets = batch['decoder_target_tokens']
  losses, _ = token_losses(stored['out/logits'], targets)
  got = -(losses * batch['decoder_loss_weights']).sum(axis=-1)
  np.testing.assert_allclose(
    got, stored['out/score_batch'], rtol=SCALAR_RTOL, atol=2e-5
  )
