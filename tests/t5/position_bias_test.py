"""Relative position biases: the number of the table, and that it is read."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.t5.layers import RelativePositionBias, buckets
from tests import models

T, J = 7, 11


@pytest.mark.parametrize('bidirectional', [True, False])
def test_the_bias_is_the_table(bidirectional):
  config = models.config()
  rng = np.random.default_rng(71)
  shape = (config.num_heads, config.relpos_num_buckets)
  table = rng.normal(size=shape).astype(np.float32)
  bias = RelativePositionBias(config, bidirectional).apply(
    {'params': {'rel_embedding': table}}, jnp.arange(T), jnp.arange(J)
  )
  apart = np.arange(J)[None, :] - np.arange(T)[:, None]
  which = buckets(
    apart,
    bidirectional,
    config.relpos_num_buckets,
    config.relpos_max_distance,
  )
  np.testing.assert_array_equal(bias[0], table[:, np.asarray(which)])


def test_both_stacks_read_their_tables():
  model = models.make('both', num_encoder_layers=1, num_decoder_layers=1)
  flat, rows = models.initial(model), models.batch()
  run = models.compiled(model)
  wanted = np.asarray(run(flat, rows))
  for stack in ('encoder', 'decoder'):
    path = f'{stack}/relpos_bias/rel_embedding'
    # by bucket: the same number at all of them is cancelled by the softmax
    other = {**flat, path: flat[path][:, ::-1]}
    assert np.abs(np.asarray(run(other, rows)) - wanted).max() > 1e-3, stack
