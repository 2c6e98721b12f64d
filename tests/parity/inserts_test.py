"""IA3 against the released code of Lester et al. 2021."""

import functools

import flax.linen as nn
import jax
import numpy as np

from prompt_jax import params, predict
from prompt_jax.inserts import IA3, saved
from prompt_jax.merge import merged
from prompt_jax.predict import Decoding
from prompt_jax.t5.t5 import T5
from prompt_jax.training import loss as losses
from prompt_jax.training.step import forward
from tests.parity.golden import batch_of, close_where, config_of, part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-5, atol=1e-5)  # README of the folder, modules
MODEL = dict(rtol=1e-4, atol=2e-5)  # likewise, models
_NAMES = {  # theirs is a layer beside the one that it scales
  'k_conv/ia3_scaling': 'key_insert/scale',
  'v_conv/ia3_scaling': 'value_insert/scale',
  'intermediate_conv/ia3_scaling': 'hidden_insert/scale',
}


def _ours(flat):
  """Their parameters under our names; a table [N,K] of scales is [N K]."""
  named = {}
  for path, x in flat.items():
    parent, *last = path.rsplit('/', 2)
    own = _NAMES.get('/'.join(last))
    named[f'{parent}/{own}' if own else path] = x.reshape(-1) if own else x
  return named


@functools.cache
def _read():
  stored = np.load(fixtures('prompt_tuning') / 'model_ia3.npz')
  flat = _ours(part(stored, 'params/'))
  model = T5(config_of(flat), [('.*/(key|value|hidden)', IA3)])
  return stored, model, flat, batch_of(stored)


def test_parameter_tree():
  _, model, flat, batch = _read()
  tokens = [x for key, x in batch.items() if key.endswith('tokens')]
  made = jax.eval_shape(model.init, jax.random.key(0), *tokens)['params']
  assert params.difference(params.flatten(nn.meta.unbox(made)), flat) == []


def test_encoded():
  stored, model, flat, batch = _read()
  encoded = jax.jit(functools.partial(predict.encode, model))(flat, batch)
  close_where(encoded.mask, encoded.states, stored['encoded'], **MODEL)


def test_logits_and_those_of_the_merged_model():
  stored, model, flat, batch = _read()
  real = batch['decoder_target_tokens'] > 0
  plain = model.clone(inserts=())
  for of, arrays in ((model, flat), (plain, merged(model, flat))):
    logits = jax.jit(functools.partial(forward, of))(arrays, batch)
    close_where(real, logits, stored['logits'], **MODEL)


def test_loss_and_gradient_of_the_scales():
  stored, model, flat, batch = _read()
  wanted = _ours(part(stored, 'grads/'))
  assert wanted.keys() == saved.own(flat).keys()

  def total(moving):
    return losses.loss(forward(model, flat | moving, batch), batch)[0]

  value, got = jax.jit(jax.value_and_grad(total))(saved.own(flat))
  np.testing.assert_allclose(value, stored['loss'], **MODEL)
  for path, gradient in wanted.items():
    np.testing.assert_allclose(got[path], gradient, **MODEL, err_msg=path)


def test_decoding():
  stored, model, flat, batch = _read()
  length = stored['predict'].shape[1]
  run = predict.decoder(model, length, Decoding('beam', 1, alpha=0.6))
  tokens, scores = jax.jit(run)(flat, batch)
  np.testing.assert_array_equal(tokens[:, -1], stored['predict'])
  np.testing.assert_allclose(scores[:, -1], stored['predict_score'], **MODEL)


def test_module():
  stored = np.load(fixtures('prompt_tuning') / 'ia3_per_layer.npz')
  for name in ('attn', 'mlp'):
    y, scale = stored[f'{name}_x'], stored[f'{name}_scale']
    flat = y.reshape(*y.shape[:2], -1)
    made = {'params': {'scale': scale.reshape(-1)}}
    got = np.asarray(IA3().apply(made, flat, None)).reshape(y.shape)
    np.testing.assert_allclose(got, stored[f'{name}_y'], **CLOSE)
