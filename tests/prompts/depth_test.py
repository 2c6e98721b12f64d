"""Slices of a deep prompt: what each layer sees, and what cannot be cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import predict
from prompt_jax.errors import UserError
from prompt_jax.prompts.depth import cut, entering, rows_of
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.training.step import forward
from tests.prompts.small_model import batch_of_two, flat_of, model_of

P = 3


def test_slices():
  rows = jnp.arange(2 * 6 * 5.0).reshape(2, 6, 5)
  first, second = cut(rows, 2)
  np.testing.assert_array_equal(first, rows[:, :3])
  np.testing.assert_array_equal(second, rows[:, 3:])
  assert rows_of(5, 3) == 15


@pytest.mark.parametrize('deeper', ['overwrite', 'add'])
def test_the_prompt_is_changed_where_it_stands(deeper):
  h = jnp.ones((2, 5, 7))
  is_prompt = jnp.array([[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]], bool)
  own = jnp.arange(2 * 2 * 7.0).reshape(2, 2, 7)
  got = entering([own], is_prompt, deeper)(1, h)
  plus = 1.0 if deeper == 'add' else 0.0
  np.testing.assert_array_equal(got[0, 1:3], own[0] + plus)
  np.testing.assert_array_equal(got[1, 3:], own[1] + plus)
  rest = np.asarray(got)[~np.asarray(is_prompt)]
  np.testing.assert_array_equal(rest, np.ones_like(rest))


@pytest.mark.parametrize('deeper', ['overwrite', 'add'])
@pytest.mark.parametrize('where', ['prefix', 'before_eos'])
def test_every_slice_counts_in_both_stacks(deeper, where):
  model = model_of(
    encoder_prompt=functools.partial(Prompt, 3 * P),
    decoder_prompt=functools.partial(Prompt, 2 * P),
    encoder_depth=3,
    decoder_depth=2,
    deeper=deeper,
    where=where,
  )
  flat, batch = flat_of(model), batch_of_two()
  total = lambda flat: jnp.sum(forward(model, flat, batch) ** 2)
  gradients = jax.jit(jax.grad(total))(flat)
  for stack in ('encoder', 'decoder'):
    rows = np.abs(gradients[f'{stack}/prompt/prompt']).sum(axis=1)
    assert (rows > 0).all(), stack


def test_decoding_agrees_with_the_scores_of_what_it_said():
  """Step by step, the caches hold the slices that one pass would place."""
  model = model_of(
    encoder_prompt=functools.partial(Prompt, 3 * P),
    decoder_prompt=functools.partial(Prompt, 2 * P),
    encoder_depth=3,
    decoder_depth=2,
  )
  flat, batch = flat_of(model), batch_of_two()
  tokens, said = jax.jit(predict.decoder(model, 5))(flat, batch)
  targets = tokens[:, -1]
  again = {
    **batch,
    'decoder_target_tokens': targets,
    'decoder_input_tokens': jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_loss_weights': (targets > 0).astype(jnp.float32),
  }
  scores = jax.jit(predict.scorer(model))(flat, again)
  np.testing.assert_allclose(said[:, -1], scores, rtol=1e-4, atol=1e-4)


def test_errors():
  with pytest.raises(UserError, match='7 rows cannot be cut for 2 layers'):
    cut(jnp.ones((1, 7, 3)), 2)
  with pytest.raises(UserError, match="cannot 'ad' its prompt; .* 'add'"):
    entering([], jnp.ones((1, 3), bool), 'ad')
