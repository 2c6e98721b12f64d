"""Small models of prime sizes, their parameters and batches, for tests."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.t5 import T5
from prompt_jax.training.step import forward

V, H, K, F, N = 31, 13, 5, 17, 3
ENCODER_LAYERS, DECODER_LAYERS = 2, 3
P, DECODER_P, M = 7, 5, 11
INPUTS = (11, 6, 3)  # real tokens of each row, EOS included
TARGETS = (7, 4, 2)
SOURCES = {  # which stacks have a prompt
  'plain': {},
  'encoder': {'encoder_prompt': lambda: Prompt(P)},
  'decoder': {'decoder_prompt': lambda: Prompt(DECODER_P)},
  'both': {
    'encoder_prompt': lambda: Prompt(P),
    'decoder_prompt': lambda: Prompt(DECODER_P),
  },
  'tasks': {'encoder_prompt': lambda: TaskPrompts(M, P)},
}


def config(**changes):
  settings = dict(
    vocab_size=V,
    d_model=H,
    d_kv=K,
    d_ff=F,
    num_heads=N,
    num_encoder_layers=ENCODER_LAYERS,
    num_decoder_layers=DECODER_LAYERS,
    relpos_num_buckets=8,
    relpos_max_distance=19,
  )
  return T5Config(**settings | changes)


def make(source='plain', where='prefix', inserts=(), **changes):
  """The model with prompts as `SOURCES` names them."""
  made = config(**changes)
  if source == 'plain':
    return T5(made, inserts)
  return PromptEncoderDecoder(made, inserts, where=where, **SOURCES[source])


def _rows(rng, counts, length):
  """[B,length] tokens above EOS, then EOS, then padding."""
  rows = np.zeros((len(counts), length), np.int32)
  for row, count in zip(rows, counts, strict=True):
    row[:count] = rng.integers(2, V, count)
    row[count - 1] = 1
  return rows


def batch(seed=0, extra=0):
  """A batch with at least one row without padding unless `extra` adds some."""
  rng = np.random.default_rng(seed)
  inputs = _rows(rng, INPUTS, max(INPUTS) + extra)
  targets = _rows(rng, TARGETS, max(TARGETS) + extra)
  return {
    'encoder_input_tokens': jnp.asarray(inputs),
    'decoder_input_tokens': jnp.asarray(
      np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    ),
    'decoder_target_tokens': jnp.asarray(targets),
    'decoder_loss_weights': jnp.asarray(targets > 0, jnp.float32),
    'task_ids': jnp.arange(3, 3 + len(INPUTS), dtype=jnp.int32) % M,
  }


def initial(model, seed=0):
  """{path: array}, with scales and position tables that are not flat."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  init = jax.jit(lambda key: nn.meta.unbox(model.init(key, *[tokens] * 3)))
  flat = params.flatten(init(jax.random.key(seed))['params'])
  rng = np.random.default_rng(seed)
  for path, leaf in flat.items():
    if path.endswith(('norm/scale', 'rel_embedding')):
      noise = jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
      flat[path] = leaf + 0.5 * noise
  return flat


def logits(model, flat, rows, rng=None):
  """Teacher-forced logits, compiled."""
  return jax.jit(functools.partial(forward, model))(flat, rows, rng)


def compiled(model):
  """`(flat, batch) -> logits`, compiled once."""
  return jax.jit(functools.partial(forward, model))
