"""Properties of the whole model: causal, indifferent to padding and order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import predict
from prompt_jax.training import loss as losses
from prompt_jax.training.step import forward
from tests import models

CLOSE = dict(rtol=1e-5, atol=1e-5)
REAL = np.asarray(models.batch()['decoder_target_tokens']) > 0


def test_a_target_is_seen_by_later_positions_only():
  model = models.make()
  flat, rows = models.initial(model), models.batch()
  run = models.compiled(model)
  before = np.asarray(run(flat, rows))
  inputs = rows['decoder_input_tokens']
  for u in (0, 3, 6):
    other = inputs.at[0, u].set((inputs[0, u] + 5) % models.V)
    after = np.asarray(run(flat, rows | {'decoder_input_tokens': other}))
    np.testing.assert_array_equal(after[0, :u], before[0, :u])
    assert (np.abs(after - before)[0, u:].max(-1) > 1e-4).all()


@pytest.mark.parametrize('tied', [False, True])
def test_padding_changes_no_logits(tied):
  model = models.make(tied_logits=tied)
  flat = models.initial(model)
  run = models.compiled(model)
  plain = np.asarray(run(flat, models.batch()))
  for extra in (1, 7):
    padded = np.asarray(run(flat, models.batch(extra=extra)))
    padded = padded[:, : plain.shape[1]]
    np.testing.assert_allclose(padded[REAL], plain[REAL], **CLOSE)


def test_padded_states_are_zero():
  model = models.make()
  batch = models.batch(extra=2)
  encoded = predict.encode(model, models.initial(model), batch)
  np.testing.assert_array_equal(encoded.mask, batch['encoder_input_tokens'] > 0)
  assert not np.asarray(encoded.states)[~np.asarray(encoded.mask)].any()


def test_rows_do_not_see_each_other():
  model = models.make()
  flat, rows = models.initial(model), models.batch()
  run = models.compiled(model)
  order = jnp.array([2, 0, 1])
  turned = run(flat, {name: x[order] for name, x in rows.items()})
  np.testing.assert_allclose(turned, run(flat, rows)[order], **CLOSE)


def _value_and_gradients(model, flat, rows, rng):
  def total(flat):
    return losses.loss(forward(model, flat, rows, rng), rows)[0]

  return jax.jit(jax.value_and_grad(total))(flat)


@pytest.mark.parametrize('rate', [0.0, 0.3])
@pytest.mark.parametrize('source', ['plain', 'both'])
def test_remat_changes_nothing_but_memory(source, rate):
  rng = jax.random.key(7) if rate else None
  rows, made = models.batch(), []
  for remat in ('none', 'full'):
    model = models.make(source, remat=remat, dropout_rate=rate)
    flat = models.initial(model)
    made.append((flat, *_value_and_gradients(model, flat, rows, rng)))
  (flat, value, grads), (other, same, twins) = made
  assert flat.keys() == other.keys()
  np.testing.assert_allclose(value, same, rtol=1e-6)
  for path in flat:
    np.testing.assert_array_equal(flat[path], other[path])
    np.testing.assert_allclose(
      grads[path], twins[path], rtol=1e-4, atol=1e-5, err_msg=path
    )


def test_remat_decodes_the_same():
  made = []
  for remat in ('none', 'full'):
    model = models.make('both', remat=remat)
    run = jax.jit(predict.decoder(model, 5))
    made.append(run(models.initial(model), models.batch()))
  np.testing.assert_array_equal(made[0][0], made[1][0])
  np.testing.assert_allclose(made[0][1], made[1][1], **CLOSE)


def test_dropout_only_where_it_is_asked_for():
  rows = models.batch()
  model = models.make(dropout_rate=0.3)
  flat = models.initial(model)
  run = jax.jit(lambda flat, rng: forward(model, flat, rows, rng))
  plain = models.logits(models.make(), flat, rows)
  np.testing.assert_array_equal(models.logits(model, flat, rows), plain)
  one, same, other = (run(flat, jax.random.key(n)) for n in (1, 1, 2))
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - other).max() > 1e-3 and np.abs(one - plain).max() > 1e-3
