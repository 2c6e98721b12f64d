"""Prompts of depth against the extended code of Lester et al. 2021.

Their model has a table for the input and one for each layer. Where layers
overwrite, that of the input is lost at once; where they add, it and the first
layer's are one sum. Ours has the tables of the layers, the sum in the first.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import predict
from prompt_jax.predict import Decoding
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import Prompt
from prompt_jax.prompts.depth import entering
from prompt_jax.training import loss as losses
from prompt_jax.training.step import forward
from tests.parity.golden import batch_of, close_where, config_of, part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-5, atol=1e-5)  # README of the folder
CLOSE_MODEL = dict(rtol=1e-4, atol=2e-5)
OURS = 'encoder/prompt/prompt'
INPUT = 'encoder/prompt/prompt/prompt'
HOW = {'overwrite': 'replace', 'add': 'add'}
every_way = pytest.mark.parametrize('deeper', HOW)


@every_way
def test_module(deeper):
  stored = np.load(fixtures('prompt_tuning') / 'ia3_per_layer.npz')
  prompt, x = stored['pl_prompt'], jnp.asarray(stored['pl_x'])
  is_prompt = np.arange(x.shape[1])[None] < prompt.shape[1]
  is_prompt = jnp.asarray(np.repeat(is_prompt, len(x), axis=0))
  enter = entering([jnp.asarray(prompt)], is_prompt, deeper)
  wanted = stored[f'pl_{HOW[deeper]}']
  np.testing.assert_allclose(enter(1, x), wanted, **CLOSE)
  np.testing.assert_array_equal(enter(0, x), x)
  np.testing.assert_array_equal(enter(2, x), x)


@functools.cache
def _read(deeper):
  """(stored, model, parameters, batch, number of layers)."""
  name = f'model_per_layer_{HOW[deeper]}.npz'
  stored = np.load(fixtures('prompt_tuning') / name)
  flat = part(stored, 'params/')
  config = config_of(flat)
  depth = config.num_encoder_layers
  first = flat.pop(INPUT)
  tables = [flat.pop(_layer(i)) for i in range(depth)]
  if deeper == 'add':
    tables[0] += first
  flat[OURS] = jnp.concatenate(tables)
  model = PromptEncoderDecoder(
    config,
    encoder_prompt=functools.partial(Prompt, len(flat[OURS])),
    encoder_depth=depth,
    deeper=deeper,
  )
  return stored, model, flat, batch_of(stored), depth


def _layer(number):
  return f'encoder/layers_{number}/prompt/prompt/prompt'


@every_way
def test_encoded_and_logits(deeper):
  stored, model, flat, batch, _ = _read(deeper)
  encoded = jax.jit(functools.partial(predict.encode, model))(flat, batch)
  assert encoded.states.shape == stored['encoded'].shape
  close_where(encoded.mask, encoded.states, stored['encoded'], **CLOSE_MODEL)
  logits = jax.jit(functools.partial(forward, model))(flat, batch)
  real = batch['decoder_target_tokens'] > 0
  close_where(real, logits, stored['logits'], **CLOSE_MODEL)


@every_way
def test_loss_and_gradients(deeper):
  stored, model, flat, batch, depth = _read(deeper)

  def total(prompt):
    logits = forward(model, flat | {OURS: prompt}, batch)
    return losses.loss(logits, batch)[0]

  value, got = jax.jit(jax.value_and_grad(total))(flat[OURS])
  np.testing.assert_allclose(value, stored['loss'], **CLOSE_MODEL)
  wanted = [stored[f'grads/{_layer(i)}'] for i in range(depth)]
  np.testing.assert_allclose(got, np.concatenate(wanted), **CLOSE_MODEL)
  theirs = stored[f'grads/{INPUT}']  # of the table that we do not have
  same = wanted[0] if deeper == 'add' else np.zeros_like(theirs)
  np.testing.assert_allclose(theirs, same, **CLOSE_MODEL)


@every_way
def test_decoding(deeper):
  stored, model, flat, batch, _ = _read(deeper)
  length = stored['predict'].shape[1]
  run = predict.decoder(model, length, Decoding('beam', 1, alpha=0.6))
  tokens, scores = jax.jit(run)(flat, batch)
  np.testing.assert_array_equal(tokens[:, -1], stored['predict'])
  wanted = stored['predict_score']
  np.testing.assert_allclose(scores[:, -1], wanted, **CLOSE_MODEL)
