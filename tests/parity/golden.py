"""Golden models: parameters, configuration and batch out of an .npz file."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.t5.config import T5Config
from tests.shared import fixtures

_RELPOS = 'encoder/relpos_bias/rel_embedding'
_FIRST = 'encoder/layers_0'


def part(stored, prefix):
  """{key without the prefix: array} of what stands under it."""
  return {
    key.removeprefix(prefix): jnp.asarray(stored[key])
    for key in stored.files
    if key.startswith(prefix)
  }


def names(folder, pattern):
  """File names of a folder of golden arrays; [] where it is not here."""
  try:
    return sorted(path.name for path in fixtures(folder).glob(pattern))
  except pytest.skip.Exception:
    return []


def config_of(flat, **changes):
  """The configuration whose parameters have these shapes."""
  vocab_size, d_model = flat['token_embedder/embedding'].shape
  num_heads, num_buckets = flat[_RELPOS].shape
  joined = flat[f'{_FIRST}/attention/query/kernel'].shape[1]
  layers = lambda stack: len(
    {k.split('/')[1] for k in flat if k.startswith(f'{stack}/layers_')}
  )
  gated = f'{_FIRST}/mlp/wi_0/kernel' in flat
  settings = dict(
    vocab_size=vocab_size,
    d_model=d_model,
    d_kv=joined // num_heads,
    d_ff=flat[f'{_FIRST}/mlp/wo/kernel'].shape[0],
    num_heads=num_heads,
    num_encoder_layers=layers('encoder'),
    num_decoder_layers=layers('decoder'),
    mlp_activations=('gelu', 'linear') if gated else ('relu',),
    tied_logits='decoder/logits_dense/kernel' not in flat,
    relpos_num_buckets=num_buckets,
  )
  return T5Config(**settings | changes)


def batch_of(stored):
  """The batch as the steps take it; every row is of task 0."""
  batch = part(stored, 'batch/')
  rows = batch['encoder_input_tokens'].shape[0]
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  return batch | {
    'decoder_loss_weights': weights,
    'task_ids': jnp.zeros(rows, jnp.int32),
  }


def close_where(mask, got, expected, **tolerance):
  """Equal to the tolerance at the positions of the mask."""
  mask = np.asarray(mask)
  assert mask.any()
  np.testing.assert_allclose(
    np.asarray(got)[mask], np.asarray(expected)[mask], **tolerance
  )
