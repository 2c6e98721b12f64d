"""A decoder-only model with a prompt against the released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.t5.config import T5Config
from prompt_jax.training.state import abstract
from prompt_jax.training.step import forward
from tests.parity.golden import part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-4, atol=2e-5)  # README of the folder
PROMPT = 'decoder/prompt/prompt'
TABLE = 'decoder/relpos_bias/rel_embedding'
# Their layer wraps a layer; their small model has a position table in its one
# layer, where T5X's own have it beside the layers.
THEIRS = {
  'decoder/prompt/prompt/prompt': PROMPT,
  'decoder/layers_0/relpos_bias/rel_embedding': TABLE,
}


@pytest.fixture(scope='module')
def golden():
  """(stored, model, parameters)."""
  stored = np.load(fixtures('prompt_tuning') / 'model_decoder_only.npz')
  flat = part(stored, 'params/')
  flat = {THEIRS.get(path, path): x for path, x in flat.items()}
  vocab_size, d_model = flat['decoder/token_embedder/embedding'].shape
  num_heads, num_buckets = flat[TABLE].shape
  joined = flat['decoder/layers_0/self_attention/query/kernel'].shape[1]
  config = T5Config(
    vocab_size,
    d_model,
    joined // num_heads,
    flat['decoder/layers_0/mlp/wo/kernel'].shape[0],
    num_heads,
    num_encoder_layers=0,
    num_decoder_layers=len({k.split('/')[1] for k in flat if '/layers_' in k}),
    mlp_activations=('gelu', 'linear')
    if 'decoder/layers_0/mlp/wi_0/kernel' in flat
    else ('relu',),
    tied_logits=True,
    relpos_num_buckets=num_buckets,
  )
  length = flat[PROMPT].shape[0]
  model = PromptEncoderDecoder(config, decoder_prompt=lambda: Prompt(length))
  return stored, model, flat


def _batches(stored):
  """(row, first position that is scored, the row as ours) of each row."""
  names = ('input_tokens', 'target_tokens', 'causal_attention')
  rows = zip(*(stored[f'decoder_{name}'] for name in names), strict=True)
  for b, (tokens, targets, seen) in enumerate(rows):
    inputs = int(seen.sum())  # the start token is the first of them
    real = int((targets > 0).sum())
    yield (
      b,
      inputs - 1,
      {
        'encoder_input_tokens': tokens[1:inputs],
        'decoder_input_tokens': np.append(tokens[:1], tokens[inputs:real]),
        'decoder_target_tokens': targets[inputs - 1 : real],
      },
    )


def test_parameter_tree(golden):
  _, model, flat = golden
  assert params.difference(abstract(model)[0], flat) == []


def _whole(module, inputs, shifted):
  """Logits of every position, prompt and prefix too."""
  encoded = module.encode(inputs)
  embeds = module.token_embedder(shifted)
  behind = embeds.shape[1] - 1
  prefix = module.decoder.prefix(embeds[:, :1], encoded, behind)
  h = jnp.concatenate([prefix.embeds, embeds[:, 1:]], axis=1)
  size, real = prefix.mask.shape[1], jnp.ones(h.shape[:2], bool)
  return module.token_embedder.attend(
    module.decoder.stack(h, real, size, None, True)
  )


def test_logits_of_every_position(golden):
  stored, model, flat = golden
  variables = {'params': params.unflatten(flat)}
  length = flat[PROMPT].shape[0]
  for b, first, row in _batches(stored):
    tokens = [row['encoder_input_tokens'], row['decoder_input_tokens']]
    tokens = [jnp.asarray(each)[None] for each in tokens]
    got = np.asarray(model.apply(variables, *tokens, method=_whole)[0])
    wanted = stored['logits_prefix'][b, : len(got)]
    np.testing.assert_allclose(got, wanted, **CLOSE)
    # in one layer, only the prefix itself tells whether it sees ahead
    causal = stored['logits_causal'][b, : length + first]
    assert np.abs(got[: length + first] - causal).max() > 1e-3


@pytest.mark.parametrize('padding', [0, 3])
def test_logits_of_the_targets(golden, padding):
  stored, model, flat = golden
  length = flat[PROMPT].shape[0]
  run = jax.jit(lambda batch: forward(model, flat, batch))
  for b, first, row in _batches(stored):
    count = len(row['decoder_target_tokens'])
    batch = {
      name: jnp.asarray(np.pad(tokens, (0, padding)))[None]
      for name, tokens in row.items()
    }
    got = run(batch | {'task_ids': jnp.zeros(1, jnp.int32)})[0, :count]
    start = length + first
    wanted = stored['logits_prefix'][b, start : start + count]
    np.testing.assert_allclose(got, wanted, **CLOSE)
