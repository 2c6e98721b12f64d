"""A T5 without an encoder: prefix and causal parts, positions, decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params, predict
from prompt_jax.predict import Decoding
from prompt_jax.t5.decoder_only import at_the_end
from prompt_jax.t5.t5 import T5
from prompt_jax.training import loss as losses
from prompt_jax.training.state import abstract
from prompt_jax.training.step import forward
from tests import models, prefix_lm

CLOSE = dict(rtol=1e-5, atol=1e-5)
CLOSE_FORMULA = dict(rtol=1e-4, atol=1e-4)  # float32 against float64
REAL = np.asarray(models.batch()['decoder_target_tokens']) > 0
KINDS = {
  'gated': {},
  'plain': {'mlp_activations': ('relu',), 'tied_logits': True},
}
every_kind = pytest.mark.parametrize('kind', KINDS)


def make(kind='gated', **changes):
  """(model, its parameters)."""
  model = models.make(num_encoder_layers=0, **KINDS[kind] | changes)
  return model, models.initial(model)


@every_kind
def test_parameters_are_those_of_a_decoder_without_cross_attention(kind):
  shapes, axes = abstract(make(kind)[0])
  whole, names = abstract(T5(models.config(**KINDS[kind])))
  kept = {
    path: path
    for path in whole
    if path.startswith('decoder/') and not ('cross' in path or '_dec' in path)
  }
  kept |= {f'decoder/{p}': p for p in whole if p.startswith('token_embedder/')}
  assert shapes.keys() == kept.keys()
  for path, same in kept.items():
    assert shapes[path].shape == whole[same].shape, path
    assert axes[path] == names[same], path


@every_kind
def test_logits_are_those_of_the_formula(kind):
  model, flat = make(kind)
  batch = models.batch(extra=2)
  got = np.asarray(models.logits(model, flat, batch))
  for row, (inputs, targets) in zip(got, prefix_lm.rows(batch), strict=True):
    wanted = prefix_lm.logits(model.config, flat, inputs, targets)
    row = row[: len(targets)]
    np.testing.assert_allclose(row, wanted, **CLOSE_FORMULA)
    causal = prefix_lm.logits(model.config, flat, inputs, targets, causal=True)
    assert np.abs(causal - wanted).max() > 1e-2


def test_an_input_of_padding_alone_is_an_empty_one():
  model, flat = make()
  batch = models.batch()
  batch['encoder_input_tokens'] = jnp.zeros_like(batch['encoder_input_tokens'])
  got = np.asarray(models.logits(model, flat, batch))
  for row, (_, targets) in zip(got, prefix_lm.rows(batch), strict=True):
    wanted = prefix_lm.logits(model.config, flat, [], targets)
    np.testing.assert_allclose(row[: len(targets)], wanted, **CLOSE_FORMULA)


@every_kind
def test_padding_changes_no_logits(kind):
  model, flat = make(kind)
  run = models.compiled(model)
  plain = np.asarray(run(flat, models.batch()))
  for extra in (1, 7):
    padded = np.asarray(run(flat, models.batch(extra=extra)))
    padded = padded[:, : plain.shape[1]]
    np.testing.assert_allclose(padded[REAL], plain[REAL], **CLOSE)


def test_a_target_is_seen_by_later_positions_only():
  model, flat = make()
  rows, run = models.batch(), models.compiled(model)
  before = np.asarray(run(flat, rows))
  inputs = rows['decoder_input_tokens']
  for u in (1, 3, 6):
    other = inputs.at[0, u].set((inputs[0, u] + 5) % models.V)
    after = np.asarray(run(flat, rows | {'decoder_input_tokens': other}))
    np.testing.assert_array_equal(after[0, :u], before[0, :u])
    assert (np.abs(after - before)[0, u:].max(-1) > 1e-4).all()


def test_the_prefix_sees_itself_and_no_padding():
  model, flat = make()

  def states(module, tokens):
    encoded = module.encode(tokens)
    start = module.token_embedder(jnp.zeros((len(tokens), 1), jnp.int32))
    prefix = module.decoder.prefix(start, encoded, 0)
    size = prefix.mask.shape[1]
    args = (prefix.embeds, prefix.mask, size, None, True)
    return module.decoder.stack(*args), prefix.mask

  run = jax.jit(
    lambda tokens: model.apply(
      {'params': params.unflatten(flat)}, tokens, method=states
    )
  )
  tokens = models.batch()['encoder_input_tokens']
  before, mask = map(np.asarray, run(tokens))
  counts = np.array(models.INPUTS)
  np.testing.assert_array_equal(mask.sum(1), counts + 1)
  assert mask[:, -1].all()
  for position in (0, 1):  # of the second row, which has 6
    other = tokens.at[1, 5 - position].set(2 + position)
    change = np.abs(np.asarray(run(other)[0]) - before)
    assert (change[1][mask[1]].max(-1) > 1e-4).all()
    assert not change[[0, 2]].any()


def test_rows_do_not_see_each_other():
  model, flat = make()
  rows, run = models.batch(), models.compiled(model)
  order = jnp.array([2, 0, 1])
  turned = run(flat, {name: x[order] for name, x in rows.items()})
  np.testing.assert_allclose(turned, run(flat, rows)[order], **CLOSE)


def test_encoded_is_the_embedded_input():
  model, flat = make()
  batch = models.batch(extra=2)
  encoded = predict.encode(model, flat, batch)
  tokens = np.asarray(batch['encoder_input_tokens'])
  np.testing.assert_array_equal(encoded.mask, tokens > 0)
  table = np.asarray(flat['decoder/token_embedder/embedding'])
  wanted = np.where((tokens > 0)[:, :, None], table[tokens], 0)
  np.testing.assert_array_equal(encoded.states, wanted)


def test_real_positions_are_turned_to_the_end():
  mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
  values = np.arange(15).reshape(3, 5)
  turned, both = at_the_end(mask, mask, np.stack([values, -values], axis=-1))
  np.testing.assert_array_equal(turned, mask[:, ::-1])
  np.testing.assert_array_equal(both[0, 3:, 0], [0, 1])
  np.testing.assert_array_equal(both[1, :, 1], -values[1])
  np.testing.assert_array_equal(both[2, 4], [10, -10])


@every_kind
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_steps_give_the_logits_of_one_pass(kind, dtype):
  model, flat = make(kind, activation_dtype=dtype)
  rows = models.batch(extra=1)
  wanted = np.asarray(models.logits(model, flat, rows))
  got = prefix_lm.stepwise(model, flat, rows)
  real = np.asarray(rows['decoder_target_tokens']) > 0
  # bfloat16 keeps 8 bits; the two passes round other sums
  close = CLOSE if dtype == 'float32' else dict(rtol=0.05, atol=0.15)
  np.testing.assert_allclose(got[real], wanted[real], **close)


@pytest.mark.parametrize('decoding', [Decoding(), Decoding('beam', 3, alpha=0)])
def test_what_is_decoded_has_the_score_of_its_tokens(decoding):
  model, flat = make()
  rows = models.batch()
  tokens, scores = jax.jit(predict.decoder(model, 5, decoding))(flat, rows)
  scorer, checked = jax.jit(predict.scorer(model)), 0
  for n in range(decoding.num_decodes):
    targets = tokens[:, n]
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    forced = rows | {
      'decoder_input_tokens': shifted,
      'decoder_target_tokens': targets,
      'decoder_loss_weights': jnp.asarray(targets > 0, jnp.float32),
    }
    # where id 0 was drawn, or a beam is empty, there is no such target
    filled = np.asarray(targets) > 0
    whole = (filled.all(1) | ((np.asarray(targets) == 1).any(1))) & (
      np.diff(filled.astype(int), axis=1) <= 0
    ).all(1)
    whole &= np.asarray(scores[:, n]) > -1e6
    again = scorer(flat, forced)
    np.testing.assert_allclose(
      scores[whole, n], again[whole], rtol=1e-4, atol=1e-4
    )
    if decoding.method == 'greedy':
      best = np.asarray(models.logits(model, flat, forced)).argmax(-1)
      real = filled & whole[:, None]
      np.testing.assert_array_equal(best[real], np.asarray(targets)[real])
    checked += whole.sum()
  assert checked


def test_ranks_are_the_scores_of_each_label():
  model, flat = make()
  rows = models.batch()
  labels = [[5, 1], [7, 11, 1], [1]]
  padded = jnp.array([row + [0] * (3 - len(row)) for row in labels])
  scores = np.asarray(jax.jit(predict.ranker(model))(flat, rows, padded))
  for b, (inputs, _) in enumerate(prefix_lm.rows(rows)):
    for c, label in enumerate(labels):
      each = prefix_lm.logits(model.config, flat, inputs, label)
      each -= np.log(np.exp(each).sum(-1, keepdims=True))
      wanted = each[np.arange(len(label)), label].sum()
      np.testing.assert_allclose(scores[b, c], wanted, **CLOSE_FORMULA)


@pytest.mark.slow  # compiles two backward passes
def test_remat_and_dropout():
  """Recomputing changes nothing, dropout does: another key, another loss."""
  rows, made = models.batch(), []
  for remat in ('none', 'full'):
    model, flat = make(remat=remat, dropout_rate=0.3)

    def total(flat, rng, model=model):
      return losses.loss(forward(model, flat, rows, rng), rows)[0]

    run = jax.jit(jax.value_and_grad(total))
    made.append([run(flat, jax.random.key(n)) for n in (3, 5)])
  for (value, grads), (same, twins) in zip(*made, strict=True):
    np.testing.assert_allclose(value, same, rtol=1e-6)
    for path, gradient in grads.items():
      np.testing.assert_allclose(
        gradient, twins[path], rtol=1e-4, atol=1e-5, err_msg=path
      )
  assert abs(float(made[0][0][0]) - float(made[0][1][0])) > 1e-3
