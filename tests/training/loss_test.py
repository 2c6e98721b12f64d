"""The loss in NumPy, its gradient, and sums that may be added up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.training.loss import (
  loss,
  normalizer,
  token_losses,
  weighted_sum,
)

B, U, V = 5, 7, 11
NORMALIZINGS = (
  None,
  13.0,
  'NUM_REAL_TARGET_TOKENS',
  'NUM_TOTAL_TARGET_TOKENS',
  'AVERAGE_PER_SEQUENCE',
)


def _batch():
  """Rows of lengths 7, 3, 1, 5 and one row that only pads; its logits."""
  rng = np.random.default_rng(0)
  lengths = np.array([7, 3, 1, 5, 0])
  weights = (np.arange(U)[None] < lengths[:, None]).astype(np.float32)
  targets = rng.integers(1, V, size=(B, U)) * (weights > 0)
  logits = 3 * rng.normal(size=(B, U, V)).astype(np.float32)
  batch = {
    'decoder_target_tokens': targets.astype(np.int32),
    'decoder_loss_weights': weights,
  }
  return logits, batch


def _log_z(logits):
  return np.log(np.exp(logits).sum(axis=-1))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_token_losses(smoothing):
  logits, batch = _batch()
  targets = batch['decoder_target_tokens']
  got, penalty = token_losses(logits, targets, 0.01, smoothing)
  wanted = np.eye(V)[targets]
  wanted = np.where(wanted == 1, 1 - smoothing, smoothing / (V - 1))
  log_softmax = logits - _log_z(logits)[..., None]
  entropy = -np.sum(wanted * np.log(np.maximum(wanted, 1e-30)), axis=-1)
  z = 0.01 * _log_z(logits) ** 2
  want = -np.sum(wanted * log_softmax, axis=-1) - entropy + z
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(penalty, z, rtol=1e-5)


def test_a_perfect_smoothed_prediction_costs_nothing():
  wanted = np.where(np.eye(V)[[[3]]] == 1, 0.9, 0.1 / (V - 1))
  got, _ = token_losses(jnp.log(wanted), np.array([[3]]), 0.0, 0.1)
  np.testing.assert_allclose(got, 0.0, atol=1e-6)


def test_gradient():
  logits, batch = _batch()
  targets = batch['decoder_target_tokens']
  got = jax.grad(lambda x: token_losses(x, targets, 0.01)[0].sum())(logits)
  softmax = np.exp(logits - _log_z(logits)[..., None])
  want = (1 + 0.02 * _log_z(logits)[..., None]) * softmax - np.eye(V)[targets]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_large_logits_lose_nothing():
  # 1e4 in both logits: the loss is the 2e-3 between them
  logits = np.array([[[1e4, 1e4 + 2**-9]]], np.float32)
  got, _ = token_losses(logits, np.array([[1]]))
  np.testing.assert_allclose(got, np.log1p(np.exp(-(2.0**-9))), rtol=1e-6)


def test_bfloat16_logits_give_float32():
  logits, batch = _batch()
  total, sums = loss(jnp.asarray(logits, jnp.bfloat16), batch)
  assert total.dtype == jnp.float32
  assert {one.dtype for one in sums.values()} == {jnp.dtype('float32')}
  assert {one.shape for one in sums.values()} == {()}


def test_normalizations():
  logits, batch = _batch()
  weights = batch['decoder_loss_weights']
  losses, _ = token_losses(logits, batch['decoder_target_tokens'], 1e-4)
  losses, total = np.asarray(losses), np.sum(losses * weights)
  rows = [
    row[w > 0].mean() for row, w in zip(losses, weights, strict=True) if w.any()
  ]
  wants = (total, total / 13, total / 16, total / (B * U), np.mean(rows))
  for kind, want in zip(NORMALIZINGS, wants, strict=True):
    got, _ = loss(logits, batch, normalizing=kind)
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=str(kind))


def test_sums():
  logits, batch = _batch()
  weights = batch['decoder_loss_weights']
  targets = batch['decoder_target_tokens']
  for kind in NORMALIZINGS:
    _, sums = loss(logits, batch, z_loss=0.01, normalizing=kind)
    losses, penalties = token_losses(logits, targets, 0.01)
    hits = (logits.argmax(-1) == targets) & (weights > 0)
    np.testing.assert_allclose(sums['loss'], weighted_sum(losses, weights))
    np.testing.assert_allclose(sums['z_loss'], weighted_sum(penalties, weights))
    assert sums['correct'] == hits.sum()
    assert (sums['weights'], sums['tokens']) == (16, 16)
    assert (sums['positions'], sums['sequences']) == (B * U, 4)


@pytest.mark.parametrize('kind', NORMALIZINGS)
def test_microbatches_add_up(kind):
  logits, batch = _batch()
  parts = [slice(0, 2), slice(2, 3), slice(3, 5)]
  divisor = normalizer(kind, batch)[1]
  value = jax.jit(
    jax.value_and_grad(
      lambda logits, batch, divisor: loss(
        logits, batch, normalizing=kind, divisor=divisor
      ),
      has_aux=True,
    )
  )
  (want, want_sums), want_grad = value(logits, batch, None)
  got = [
    value(logits[p], {k: v[p] for k, v in batch.items()}, divisor)
    for p in parts
  ]
  np.testing.assert_allclose(sum(one[0][0] for one in got), want, rtol=1e-5)
  grad = np.concatenate([one[1] for one in got])
  np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-7)
  for name, total in want_sums.items():
    added = sum(one[0][1][name] for one in got)
    np.testing.assert_allclose(added, total, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('kind', NORMALIZINGS)
def test_a_batch_that_only_pads_costs_nothing(kind):
  logits, batch = _batch()
  batch['decoder_loss_weights'] = np.zeros((B, U), np.float32)
  (total, sums), grad = jax.value_and_grad(
    lambda x: loss(x, batch, normalizing=kind), has_aux=True
  )(logits)
  assert total == 0 and sums['sequences'] == 0
  np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize(
  'options, message',
  [
    (
      {'normalizing': 'NUM_REAL_TOKENS'},
      "LOSS_NORMALIZING_FACTOR is 'NUM_REAL_TOKENS'; expected None",
    ),
    ({'normalizing': 'AVERAGE'}, "mean 'AVERAGE_PER_SEQUENCE'"),
    ({'normalizing': 0}, 'is 0; expected a number above 0'),
    ({'label_smoothing': 1.0}, 'label_smoothing=1.0; expected a number of'),
  ],
)
def test_errors(options, message):
  with pytest.raises(UserError) as error:
    loss(*_batch(), **options)
  assert message in str(error.value)
