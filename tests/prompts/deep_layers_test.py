"""A deep prompt in a model: what enters each layer of both stacks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.prompts.prompt import Prompt
from prompt_jax.t5.t5 import DecoderLayer, EncoderLayer
from prompt_jax.training.step import forward
from tests.prompts.small_model import batch_of_two, flat_of, model_of

P = 3
DEPTHS = {'encoder': 3, 'decoder': 2}


def _passing(model, flat, batch):
  """{stack: [(what enters a layer, what leaves it)]}, each float [B,J,H]."""

  def run(flat):
    seen = {stack: [] for stack in DEPTHS}

    def record(following, args, settings, context):
      left = following(*args, **settings)
      is_layer = isinstance(context.module, EncoderLayer | DecoderLayer)
      if is_layer and context.method_name == '__call__':
        seen[context.module.path[0]].append((args[0], left))
      return left

    with nn.intercept_methods(record):
      forward(model, flat, batch)
    return seen

  return jax.device_get(jax.jit(run)(flat))


@pytest.mark.parametrize('deeper', ['overwrite', 'add'])
def test_what_enters_each_layer(deeper):
  model = model_of(
    encoder_prompt=functools.partial(Prompt, DEPTHS['encoder'] * P),
    decoder_prompt=functools.partial(Prompt, DEPTHS['decoder'] * P),
    encoder_depth=DEPTHS['encoder'],
    decoder_depth=DEPTHS['decoder'],
    deeper=deeper,
  )
  flat = flat_of(model)
  passing = _passing(model, flat, batch_of_two())
  for stack, depth in DEPTHS.items():
    slices = np.split(np.asarray(flat[f'{stack}/prompt/prompt']), depth)
    left = np.zeros_like(passing[stack][0][0])
    assert len(passing[stack]) == depth
    for own, (entered, leaves) in zip(slices, passing[stack], strict=True):
      before = left[:, :P] if deeper == 'add' else 0.0
      wanted = jnp.broadcast_to(own[None], (2, P, own.shape[1])) + before
      np.testing.assert_allclose(entered[:, :P], wanted, rtol=1e-6, atol=1e-6)
      if left.any():  # what is not prompt goes on as it left the layer before
        np.testing.assert_array_equal(entered[:, P:], left[:, P:])
      left = leaves
