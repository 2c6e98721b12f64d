"""One training step.

    loss(trainable) = L(model(merge(trainable, frozen)), batch) + sown losses
    gradient with respect to `trainable` only; update; step + 1

The frozen base is an argument that is read, never returned. Weight gradients
of the base are not built, so a step costs two forward passes of its dense
products and not three; `training/flops.py` counts.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.training import loss as losses
from prompt_jax.training.optim import apply_updates
from prompt_jax.training.program import Program
from prompt_jax.training.state import State

__all__ = ['Call', 'Program', 'forward', 'train_step']


class Call:
  """Runs a model with given parameters, and adds up what its modules sow.

  Args:
    model: the linen model.
    flat: its parameters {path: array}.
    rng: key of dropout; None is without.

  Attributes:
    sown: sum of the collection `losses`, of all calls so far.
  """

  def __init__(self, model, flat, rng=None):
    self._model, self._flat, self._rng = model, flat, rng
    self.sown = jnp.float32(0.0)

  def __call__(self, *args, method: str = '__call__'):
    out, state = self._model.apply(
      {'params': params.unflatten(self._flat)},
      *args,
      deterministic=self._rng is None,
      rngs=None if self._rng is None else {'dropout': self._rng},
      method=method,
      mutable=['losses'],
    )
    for leaf in jax.tree.leaves(state):
      self.sown += leaf
    return out


def forward(model, flat, batch, rng=None):
  """Teacher-forced logits float32[B,U,V]; with `rng`, with dropout."""
  return Call(model, flat, rng)(
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    batch['task_ids'],
  )


def _split_rows(batch, parts: int):
  """[B,...] -> [parts, B/parts, ...]; strided, so that shards stay put."""
  return {
    name: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
    for name, x in batch.items()
  }


def _gradient(
  model, loss: Callable, microbatches: int, normalizing, **options
) -> Callable:
  """Builds `(trainable, frozen, batch, rng) -> (gradients, sums)`."""

  def objective(trainable, frozen, batch, divisor, rng):
    call = Call(model, params.merge(trainable, frozen), rng)
    total, sums = loss(
      call, batch, normalizing=normalizing, divisor=divisor, **options
    )
    # what modules sow belongs to the batch, not to each part of it
    return total + call.sown / microbatches, sums

  differentiate = jax.grad(objective, has_aux=True)

  def gradient(trainable, frozen, batch, rng):
    divisor = losses.normalizer(normalizing, batch)[1]
    if microbatches == 1:
      return differentiate(trainable, frozen, batch, divisor, rng)

    def of(part):
      number, rows = part
      key = None if rng is None else jax.random.fold_in(rng, number)
      return differentiate(trainable, frozen, rows, divisor, key)

    parts = (jnp.arange(microbatches), _split_rows(batch, microbatches))
    shapes = jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    add = lambda total, part: (jax.tree.map(jnp.add, total, of(part)), None)
    return jax.lax.scan(add, zero, parts)[0]

  return gradient


def _of_inputs(tokens):
  """How many of the input positions are tokens, for the padding share."""
  return {
    'input_tokens': jnp.sum(tokens > 0, dtype=jnp.float32),
    'input_positions': jnp.float32(tokens.size),
  }


def train_step(
  model,
  optimizer,
  rates: Mapping[str, float],
  schedule: Callable,
  *,
  loss: Callable = losses.teacher_forced,
  z_loss: float = 1e-4,
  label_smoothing: float = 0.0,
  loss_normalizing_factor=None,
  microbatches: int = 1,
) -> Callable:
  """Builds `step(state, frozen, batch) -> (state, sums)`.

  Args:
    model: the linen model.
    optimizer: see `training.optim`.
    rates: {trainable path: peak learning rate}.
    schedule: step -> factor of the rates.
    loss: `(call, batch, *, z_loss, label_smoothing, normalizing, divisor) ->
      (scalar, sums)`, see `loss.teacher_forced`.
    z_loss: coefficient of log^2 Z (1e-4: T5X and Lester et al.'s release).
    label_smoothing, loss_normalizing_factor: see `training.loss`.
    microbatches: the batch is cut into this many, gradients are summed; the
      result is that of the whole batch.
  Returns: the step. `sums` holds the sums of `training.loss` over the batch,
    `rate` (the schedule's factor), `input_tokens` and `input_positions` (real
    ones and all) and `bad` bool[leaves]: where a gradient or the updated value
    is not finite, in sorted path order.
  """
  gradient = _gradient(
    model,
    loss,
    microbatches,
    loss_normalizing_factor,
    z_loss=z_loss,
    label_smoothing=label_smoothing,
  )

  def step(state: State, frozen, batch):
    # always there: a source may drop what the base does not
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    grads, sums = gradient(state.trainable, frozen, batch, rng)
    factor = schedule(state.step)
    rate = {path: jnp.float32(r) * factor for path, r in rates.items()}
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.trainable, learning_rate=rate
    )
    trainable = apply_updates(state.trainable, updates)
    # a rate can be too large for a gradient that is still finite
    finite = lambda path: (
      jnp.all(jnp.isfinite(grads[path]))
      & jnp.all(jnp.isfinite(trainable[path]))
    )
    sums = {**sums, **_of_inputs(batch['encoder_input_tokens'])}
    sums['bad'] = jnp.stack([~finite(path) for path in sorted(grads)])
    sums['rate'] = factor
    return State(state.step + 1, trainable, opt_state, state.rng), sums

  return step
