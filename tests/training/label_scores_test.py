"""Scores of labels in a ranking loss are those that inference ranks by."""

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import predict
from prompt_jax.training import ranking
from prompt_jax.training.step import Call
from tests.prompts.small_model import batch_of_two, flat_of, model_of

LABELS = np.array([[7, 1, 0, 0], [11, 13, 1, 0], [17, 19, 23, 1]], np.int32)


def test_scores_are_those_of_inference():
  model, batch = model_of(), batch_of_two()
  flat = flat_of(model)
  inputs, ids = batch['encoder_input_tokens'], batch['task_ids']
  targets = jnp.broadcast_to(LABELS[None], (2, *LABELS.shape))

  @jax.jit
  def score(flat):
    call = Call(model, flat)
    return ranking.label_scores(call, inputs, ids, targets, by_length=False)

  wanted = jax.jit(predict.ranker(model))(flat, batch, LABELS)
  np.testing.assert_allclose(score(flat), wanted, rtol=1e-5, atol=1e-5)
