"""Attentional mixtures of prompts against the released code of ATTEMPT.

Its rows were run one by one without padding; `padded_` arrays are a padded
batch in one call, which only `pool_padding` reproduces.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params, predict
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import Attempt, Bank, Prompt, TaskPrompts
from prompt_jax.t5 import hf_checkpoint
from prompt_jax.training import loss as losses
from prompt_jax.training.step import forward
from tests.parity.golden import config_of, part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-5, atol=1e-5)  # README of the folder
CLOSE_GRADIENT = dict(rtol=1e-4, atol=1e-5)
HOW = ('', 'padded_')
# their array -> (our path, transposed); Linear is stored [out,in]
NAMES = {
  'sources': ('bank/prompts', False),
  'W_down': ('query/down/kernel', True),
  'W_up': ('query/up/kernel', True),
  'ln_scale': ('query/norm/scale', False),
  'ln_bias': ('query/norm/bias', False),
}
PARAMETERS = {'sources': 'source_prompts'}  # where a name is not theirs


@functools.cache
def _stored(file):
  return np.load(fixtures('attempt') / f'{file}.npz')


def _cases(file, array):
  """Names of the golden cases; [] where they are not here."""
  try:
    return [
      name.removesuffix(f'/{array}')
      for name in _stored(file).files
      if name.endswith(f'/{array}')
    ]
  except pytest.skip.Exception:
    return []


def _is_multi(case):
  return '_multi' in case


def _named(stored, case, prefix):
  """{our path: array} of gradients, or of parameters for the prefix ''."""
  flat = {}
  for name, (path, transposed) in NAMES.items():
    key = f'{case}/{prefix}{name}' if prefix else PARAMETERS.get(name, name)
    if key in stored.files and 'constant' not in case.split('_') + [name]:
      array = jnp.asarray(stored[key])
      flat[path] = array.T if transposed else array
  if case.startswith('constant'):
    key = f'{case}/{prefix}sources' if prefix else 'source_prompts'
    flat = {'bank/prompts': jnp.asarray(stored[key])}
  target = stored[f'{case}/{prefix}target' if prefix else 'target_prompts']
  if _is_multi(case):
    flat['targets/prompts'] = jnp.asarray(target)
  elif 'ignore_target' not in case:
    flat['targets/prompt'] = jnp.asarray(target if prefix else target[0])
  return flat


def _source(stored, case, how):
  """(factory of the source, its parameters, task ids)."""
  count, length, _ = stored['source_prompts'].shape
  target = functools.partial(Prompt, length)
  if _is_multi(case):
    target = functools.partial(
      TaskPrompts, len(stored['target_prompts']), length
    )
  if 'ignore_target' in case:
    target = None
  source = functools.partial(
    Attempt,
    target=target,
    sources=functools.partial(Bank, ['unread'] * count, length),
    attention=case.split('_')[0],
    bottleneck=stored['W_down'].shape[0],
    temperature=float(stored[f'{case}/temperature']),
    pool_padding=bool(how),
  )
  ids = jnp.asarray(stored['task_ids'])
  ids = jnp.zeros_like(ids) if 'no_task_ids' in case else ids
  return source, _named(stored, case, ''), ids


@functools.cache
def _mixed(case, how):
  stored = _stored('attempt')
  source, flat, ids = _source(stored, case, how)
  embeds, mask = stored['inputs_embeds'], stored['mask'] > 0

  def mixture(flat):
    variables = {'params': params.unflatten(flat)}
    inputs = (ids, jnp.asarray(embeds), jnp.asarray(mask))
    return source().apply(variables, *inputs, method='mixture')

  return stored, flat, mixture


every_case = pytest.mark.parametrize('case', _cases('attempt', 'prompt'))
every_model = pytest.mark.parametrize('case', _cases('full_model', 'logits'))
both_ways = pytest.mark.parametrize('how', HOW, ids=['unpadded', 'padded'])


@every_case
@both_ways
def test_prompt_scores_and_weights(case, how):
  stored, flat, mixture = _mixed(case, how)
  got = jax.jit(mixture)(flat)
  for name in ('prompt', 'scores', 'weights'):
    wanted = stored[f'{case}/{how}{name}']
    array = getattr(got, name).reshape(wanted.shape)
    np.testing.assert_allclose(array, wanted, **CLOSE, err_msg=name)


@every_case
@both_ways
def test_gradients(case, how):
  stored, flat, mixture = _mixed(case, how)
  cotangent = jnp.asarray(stored['cotangent'])
  total = lambda flat: jnp.sum(cotangent * mixture(flat).prompt)
  got = jax.jit(jax.grad(total))(flat)
  wanted = _named(stored, case, f'{how}grad_')
  assert got.keys() == wanted.keys()
  for path, gradient in wanted.items():
    np.testing.assert_allclose(
      got[path], gradient, **CLOSE_GRADIENT, err_msg=path
    )


@every_case
def test_padding_matters_to_their_prompt_only(case):
  stored = _stored('attempt')
  gap = stored[f'{case}/prompt'] - stored[f'{case}/padded_prompt']
  # ten times the tolerance: the temperature grows with the width
  assert (np.abs(gap).max() > 1e-4) == (not case.startswith('constant'))


def _base(stored):
  """{our path: array} of the T5 under the full model."""
  flat = {'token_embedder/embedding': jnp.asarray(stored['embedding'])}
  for name, array in part(stored, 't5/').items():
    path = hf_checkpoint.slash_path(name)
    transposed = hf_checkpoint.hf_name(path)[1]
    flat[path] = array.T if transposed else array
  return flat


@functools.cache
def _model(case, how):
  """(stored, model, base, parameters of the source, batch)."""
  stored = _stored('full_model')
  source, own, ids = _source(stored, case, how)
  base = _base(stored)
  model = PromptEncoderDecoder(config_of(base), encoder_prompt=source)
  labels = np.maximum(stored['labels'], 0)  # -100 is no label
  batch = {
    'encoder_input_tokens': jnp.asarray(stored['input_ids'], jnp.int32),
    'decoder_input_tokens': jnp.pad(labels[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': jnp.asarray(labels, jnp.int32),
    'decoder_loss_weights': jnp.asarray(stored['labels'] >= 0, jnp.float32),
    'task_ids': ids,
  }
  own = {f'encoder/prompt/{path}': x for path, x in own.items()}
  return stored, model, base, own, batch


@every_model
@both_ways
def test_logits_and_loss(case, how):
  stored, model, base, own, batch = _model(case, how)
  logits = jax.jit(functools.partial(forward, model))(base | own, batch)
  real = stored['labels'] >= 0
  wanted = stored[f'{case}/{how}logits']
  np.testing.assert_allclose(logits[real], wanted[real], **CLOSE)
  token, _ = losses.token_losses(logits, batch['decoder_target_tokens'])
  token = np.where(real, token, 0)
  mean = token.sum() / real.sum()
  np.testing.assert_allclose(mean, stored[f'{case}/{how}loss'], **CLOSE)
  if not how:
    rows = token.sum(axis=1) / real.sum(axis=1)
    np.testing.assert_allclose(rows, stored[f'{case}/row_loss'], **CLOSE)


@every_model
def test_gradients_of_the_loss(case):
  stored, model, base, own, batch = _model(case, '')

  def total(own):
    logits = forward(model, base | own, batch)
    options = dict(z_loss=0.0, normalizing='NUM_REAL_TARGET_TOKENS')
    return losses.loss(logits, batch, **options)[0]

  got = jax.jit(jax.grad(total))(own)
  wanted = _named(stored, case, 'loss_grad_')
  assert {f'encoder/prompt/{path}' for path in wanted} == got.keys()
  for path, gradient in wanted.items():
    np.testing.assert_allclose(
      got[f'encoder/prompt/{path}'],
      gradient,
      **CLOSE_GRADIENT,
      err_msg=path,
    )


@every_model
def test_weights_of_a_model(case):
  _, model, base, own, batch = _model(case, '')
  run = jax.jit(functools.partial(predict.weights_of, model))
  got = run(base | own, batch)
  wanted = _stored('attempt')[f'{case}/weights']
  np.testing.assert_allclose(got, wanted, **CLOSE)
