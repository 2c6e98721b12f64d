"""Records: what they keep, at which positions, and that nothing changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.inserts import Record
from prompt_jax.inserts.record import (
  COLLECTION,
  at_positions,
  mean_over,
  recorded,
)
from prompt_jax.t5 import layers
from tests import models
from tests.t5.submodel_test import arrays_of

LAYERS = dict(num_encoder_layers=1, num_decoder_layers=1)


def _kept(model, flat, rows):
  """(logits, what was recorded), compiled."""
  run = functools.partial(model.apply, mutable=[COLLECTION])
  tokens = [rows[k] for k in rows if k.endswith('tokens')]
  out, state = jax.jit(run)({'params': params.unflatten(flat)}, *tokens)
  return out, recorded(state)


def test_records_keep_sites_and_change_nothing():
  plain = models.make('encoder', **LAYERS)
  flat, rows = arrays_of(plain), models.batch()
  model = plain.clone(inserts=[('.*/mlp/(wi_0|wi_1|hidden)', Record)])
  out, kept = _kept(model, flat, rows)
  np.testing.assert_array_equal(out, models.logits(plain, flat, rows))
  assert list(kept) == [
    f'{stack}/layers_0/mlp/{name}'
    for stack in ('decoder', 'encoder')
    for name in ('hidden', 'wi_0', 'wi_1')
  ]
  # the encoder's positions are those of the prompt and of the input
  assert kept['encoder/layers_0/mlp/hidden'].shape == (3, 7 + 11, models.F)
  assert kept['decoder/layers_0/mlp/hidden'].shape == (3, 7, models.F)
  for stack in 'encoder', 'decoder':
    of = lambda name, stack=stack: kept[f'{stack}/layers_0/mlp/{name}']
    product = layers._ACTIVATIONS['gelu'](of('wi_0')) * of('wi_1')
    np.testing.assert_allclose(of('hidden'), product, rtol=1e-5, atol=2e-5)


def test_records_have_no_parameters_and_cost_nothing_unasked():
  model = models.make(inserts=[('.*/hidden', Record)], **LAYERS)
  plain = models.make(**LAYERS)
  flat, rows = arrays_of(plain), models.batch()
  assert arrays_of(model).keys() == flat.keys()
  np.testing.assert_array_equal(
    models.logits(model, flat, rows), models.logits(plain, flat, rows)
  )
  assert recorded({}) == {}


def test_means_leave_padding_out():
  y = jnp.asarray(np.random.default_rng(7).normal(size=(3, 5, 2)), jnp.float32)
  mask = np.arange(5) < np.array([[5], [2], [0]])
  got = mean_over(y, jnp.asarray(mask))
  np.testing.assert_allclose(got[1], np.abs(y[1, :2]).mean(axis=0), rtol=1e-6)
  np.testing.assert_allclose(got[0], np.abs(y[0]).mean(axis=0), rtol=1e-6)
  assert not got[2].any()
  signed = mean_over(y, jnp.asarray(mask), of=lambda x: x)
  np.testing.assert_allclose(signed[0], np.mean(y[0], axis=0), atol=1e-6)


def test_chosen_positions():
  y = jnp.arange(3 * 5 * 2).reshape(3, 5, 2)
  np.testing.assert_array_equal(at_positions(y, [4, 0]), y[:, [4, 0]])
  each = np.array([[0, 1], [4, 4], [2, 3]])
  got = at_positions(y, each)
  for row in range(3):
    np.testing.assert_array_equal(got[row], y[row, each[row]])
