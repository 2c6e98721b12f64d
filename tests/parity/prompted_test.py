"""Models with a prompt against the released code of Lester et al. 2021."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from prompt_jax import params, predict
from prompt_jax.predict import Decoding
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.training import loss as losses
from prompt_jax.training.step import forward
from tests.parity.golden import batch_of, close_where, config_of, part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-4, atol=2e-5)  # README of the folder
PROMPT = 'encoder/prompt/prompt'
THEIRS = 'encoder/prompt/prompt/prompt'  # their layer wraps a layer
PLACES = {'model_prompt': 'prefix', 'model_prompt_suffix': 'before_eos'}
every_place = pytest.mark.parametrize('name', PLACES)


def _ours(flat):
  return {(PROMPT if k == THEIRS else k): x for k, x in flat.items()}


@functools.cache
def _read(name):
  stored = np.load(fixtures('prompt_tuning') / f'{name}.npz')
  flat = _ours(part(stored, 'params/'))
  length = flat[PROMPT].shape[0]
  model = PromptEncoderDecoder(
    config_of(flat),
    encoder_prompt=lambda: Prompt(length),
    where=PLACES[name],
  )
  return stored, model, flat, batch_of(stored)


@functools.cache
def _logits(name):
  _, model, flat, batch = _read(name)
  return jax.jit(functools.partial(forward, model))(flat, batch)


@every_place
def test_parameter_tree(name):
  _, model, flat, batch = _read(name)
  tokens = [x for key, x in batch.items() if key.endswith('tokens')]
  made = jax.eval_shape(model.init, jax.random.key(0), *tokens)['params']
  assert params.difference(params.flatten(nn.meta.unbox(made)), flat) == []


@every_place
def test_encoded(name):
  stored, model, flat, batch = _read(name)
  encode = functools.partial(predict.encode, model)
  encoded = jax.jit(encode)(flat, batch)
  assert encoded.states.shape == stored['encoded'].shape
  close_where(encoded.mask, encoded.states, stored['encoded'], **CLOSE)


@every_place
def test_logits(name):
  stored, model, flat, batch = _read(name)
  logits = _logits(name)
  real = batch['decoder_target_tokens'] > 0
  close_where(real, logits, stored['logits'], **CLOSE)


@every_place
def test_loss_and_gradient_of_the_prompt(name):
  stored, model, flat, batch = _read(name)
  wanted = _ours(part(stored, 'grads/'))

  def total(moving):
    return losses.loss(forward(model, flat | moving, batch), batch)[0]

  moving = {path: flat[path] for path in wanted}
  value, got = jax.jit(jax.value_and_grad(total))(moving)
  np.testing.assert_allclose(value, stored['loss'], **CLOSE)
  assert PROMPT in wanted
  for path, gradient in wanted.items():
    np.testing.assert_allclose(got[path], gradient, **CLOSE, err_msg=path)


@every_place
def test_decoding(name):
  stored, model, flat, batch = _read(name)
  length = stored['predict'].shape[1]
  run = predict.decoder(model, length, Decoding('beam', 1, alpha=0.6))
  tokens, scores = jax.jit(run)(flat, batch)
  np.testing.assert_array_equal(tokens[:, -1], stored['predict'])
  np.testing.assert_allclose(scores[:, -1], stored['predict_score'], **CLOSE)


def test_the_placements_differ():
  _, model, flat, batch = _read('model_prompt')
  one, other = (
    jax.jit(functools.partial(forward, model.clone(where=where)))(flat, batch)
    for where in PLACES.values()
  )
  assert np.abs(one - other).max() > 1e-3
