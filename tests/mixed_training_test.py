"""Tasks that train in mixed batches train as each would by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.train import prompt_adafactor
from prompt_jax.training import optim
from prompt_jax.training.state import State, abstract
from prompt_jax.training.step import train_step
from tests import models

TABLE, PROMPT = 'encoder/prompt/prompts', 'encoder/prompt/prompt'
WEIGHTS = 'decoder_loss_weights'
OPTIMIZERS = {'adafactor': prompt_adafactor, 'adamw': optim.adamw}


def trained(model, path, start, frozen, batches, make):
  """A prompt, or a table of them, after a step on each batch."""
  optimizer = optim.informed(make(), abstract(model)[1])
  step = train_step(model, optimizer, {path: 0.3}, jnp.ones_like)
  trainable = {path: start}
  rng = jax.random.key_data(jax.random.key(0))
  state = State(
    jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), rng
  )
  compiled = jax.jit(step)
  for batch in batches:
    state, _ = compiled(state, frozen, batch)
  return np.asarray(state.trainable[path])


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_mixed_training_is_that_of_each_task_alone(name):
  many, one = models.make('tasks'), models.make('encoder')
  frozen, rows = models.initial(many), models.batch()
  start, tasks = frozen.pop(TABLE), (3, 7)
  turned = [
    {key: x[jnp.array(order)] for key, x in rows.items()}
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1], [2, 0, 1])
  ]
  ids = jnp.array([3, 7, 3])
  mixed = [each | {'task_ids': ids} for each in turned]
  make = OPTIMIZERS[name]
  got = trained(many, TABLE, start, frozen, mixed, make)
  for task in tasks:
    # Rows of others weigh nothing here, instead of being away: products of
    # another shape round otherwise, and five steps make 1e-7 of that 1e-5.
    chosen = (ids == task)[:, None]
    own = [each | {WEIGHTS: each[WEIGHTS] * chosen} for each in turned]
    alone = trained(one, PROMPT, start[task], frozen, own, make)
    assert np.abs(alone - start[task]).mean() > 0.3
    np.testing.assert_allclose(got[task], alone, rtol=1e-6, atol=1e-6)
