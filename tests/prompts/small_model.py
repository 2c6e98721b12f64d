"""A small model with prompts, its numbers and a batch."""

import jax.numpy as jnp
import numpy as np

from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.t5.config import T5Config
from prompt_jax.training import state as states

H, VOCABULARY = 7, 53


def model_of(**settings):
  """A model of three encoder and two decoder layers."""
  config = T5Config(VOCABULARY, H, 5, 11, 2, 3, 2)
  return PromptEncoderDecoder(config, **settings)


def batch_of_two():
  """Two rows without padding."""
  rng = np.random.default_rng(3)
  tokens = lambda length: jnp.asarray(
    rng.integers(2, VOCABULARY, (2, length)), jnp.int32
  )
  targets = tokens(5)
  return {
    'encoder_input_tokens': tokens(11),
    'decoder_target_tokens': targets,
    'decoder_input_tokens': jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'task_ids': jnp.zeros(2, jnp.int32),
  }


def flat_of(model):
  """Random parameters {path: array}."""
  shapes = states.abstract(model)[0]
  rng = np.random.default_rng(5)
  return {
    path: jnp.asarray(rng.normal(size=x.shape) / x.shape[0] ** 0.5, x.dtype)
    for path, x in shapes.items()
  }
