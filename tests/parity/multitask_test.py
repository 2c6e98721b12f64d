"""Shared and task prompts against the extended code of Lester et al. 2021.

Their tables are flat, ours have the shapes of their parts; a task is said by
its id and not by the first token, which their wrapper cuts off again.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params, predict
from prompt_jax.predict import Decoding
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import SharedAndTask
from prompt_jax.prompts.place import ATTENTION, place
from prompt_jax.training import loss as losses
from prompt_jax.training.step import forward
from tests.parity.golden import batch_of, close_where, config_of, part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-5, atol=1e-5)  # README of the folder
CLOSE_MODEL = dict(rtol=1e-4, atol=2e-5)
THEIRS = 'encoder/prompt/prompt/'
KINDS = (
  'add',
  'concat',
  'concat_default',
  'concat_features',
  'project',
  'project_default',
)


@functools.cache
def _stored(name):
  return np.load(fixtures('prompt_tuning') / f'{name}.npz')


def _ours(kind, shared, tasks, width):
  """(settings of the source, its parameters) of two flat tables."""
  length, inner = shared.shape
  count = len(tasks)
  flat = {'shared': jnp.asarray(shared)}
  combine = kind.removesuffix('_default')
  settings = dict(num_tasks=count, length=length, combine=combine)
  if combine == 'project':
    split = width * inner  # output-major, then the bias
    kernels = tasks[:, :split].reshape(count, width, inner)
    flat['kernels'] = jnp.asarray(kernels.swapaxes(1, 2))
    flat['biases'] = jnp.asarray(tasks[:, split:])
    settings['shared_features'] = inner
    return settings, flat
  last = length
  if combine == 'concat':
    last = tasks.shape[1] // width
    settings.update(length=length + last, task_length=last)
  elif combine == 'concat_features':
    settings['shared_features'] = inner
  flat['tasks'] = jnp.asarray(tasks.reshape(count, last, -1))
  return settings, flat


def _made(kind):
  """(source, parameters, task ids, embeds, mask) of a case."""
  stored = _stored('multitask')
  shared, tasks = (stored[f'{kind}_{part}'] for part in ('shared', 'tasks'))
  settings, flat = _ours(kind, shared, tasks, stored['embeds'].shape[2])
  embeds = jnp.asarray(stored['embeds'])
  ids = jnp.asarray(stored['tokens'][:, 0])
  return SharedAndTask(**settings), flat, ids, embeds, stored['tokens'] > 0


@pytest.mark.parametrize('kind', KINDS)
def test_prompts(kind):
  source, flat, ids, embeds, mask = _made(kind)
  variables = {'params': params.unflatten(flat)}
  got = jax.jit(source.apply)(variables, ids, embeds, jnp.asarray(mask))
  wanted = _stored('multitask')[f'{kind}_out']
  assert got.shape[1] == source.length == wanted.shape[1]
  np.testing.assert_allclose(got, wanted, **CLOSE)


@pytest.mark.parametrize('kind', KINDS)
def test_prompts_before_the_input_without_its_task_token(kind):
  source, flat, ids, embeds, mask = _made(kind)
  variables = {'params': params.unflatten(flat)}
  rows = source.apply(variables, ids, embeds, jnp.asarray(mask))
  placed = place(rows, embeds[:, 1:], jnp.asarray(mask)[:, 1:])
  wanted = _stored('multitask')[f'{kind}_combined']
  np.testing.assert_allclose(placed.embeds, wanted, **CLOSE)


def test_sentinels_count_tasks_from_the_end_of_the_vocabulary():
  stored = _stored('multitask')
  ids = 32100 - 1 - stored['sentinel_in']
  np.testing.assert_array_equal(ids, stored['sentinel_task'])


@functools.cache
def _model():
  """(stored, model, base, parameters of the source, batch)."""
  stored = _stored('model_multitask_add')
  flat = part(stored, 'params/')
  shared = flat.pop(f'{THEIRS}shared_prompt')
  tasks = flat.pop(f'{THEIRS}task_prompts/embedding')
  config = config_of(flat)
  settings, own = _ours('add', shared, tasks, config.d_model)
  model = PromptEncoderDecoder(
    config,
    encoder_prompt=functools.partial(SharedAndTask, **settings),
    attention=ATTENTION,  # prompts are causal, as their configuration has them
  )
  batch = batch_of(stored)
  tokens = batch['encoder_input_tokens']
  batch['task_ids'] = config.vocab_size - 1 - tokens[:, 0]
  batch['encoder_input_tokens'] = tokens[:, 1:]
  own = {f'encoder/prompt/{path}': x for path, x in own.items()}
  return stored, model, flat, own, batch


def test_encoded_and_logits():
  stored, model, flat, own, batch = _model()
  encoded = jax.jit(functools.partial(predict.encode, model))(flat | own, batch)
  close_where(encoded.mask, encoded.states, stored['encoded'], **CLOSE_MODEL)
  logits = jax.jit(functools.partial(forward, model))(flat | own, batch)
  real = batch['decoder_target_tokens'] > 0
  close_where(real, logits, stored['logits'], **CLOSE_MODEL)


def test_loss_and_gradients():
  stored, model, flat, own, batch = _model()
  total = lambda own: losses.loss(forward(model, flat | own, batch), batch)[0]
  value, got = jax.jit(jax.value_and_grad(total))(own)
  np.testing.assert_allclose(value, stored['loss'], **CLOSE_MODEL)
  wanted = part(stored, f'grads/{THEIRS}')
  shared, tasks = wanted['shared_prompt'], wanted['task_prompts/embedding']
  _, wanted = _ours('add', shared, tasks, shared.shape[1])
  for path, gradient in wanted.items():
    np.testing.assert_allclose(
      got[f'encoder/prompt/{path}'], gradient, **CLOSE_MODEL, err_msg=path
    )


def test_decoding():
  stored, model, flat, own, batch = _model()
  length = stored['predict'].shape[1]
  run = predict.decoder(model, length, Decoding('beam', 1, alpha=0.6))
  tokens, scores = jax.jit(run)(flat | own, batch)
  np.testing.assert_array_equal(tokens[:, -1], stored['predict'])
  wanted = stored['predict_score']
  np.testing.assert_allclose(scores[:, -1], wanted, **CLOSE_MODEL)
