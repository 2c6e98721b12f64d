"""Distance minimising: a projector trained without any model.

    min mean (proj(source prompt of t) - target prompt of t)^2   over tasks t

Source: Su et al. 2022, section 4.2, and its released code: Adam at 1e-4 on
batches of 16 tasks, filled up with repeats where there are fewer.
Departures: tasks are drawn by our own generator.
"""

from collections.abc import Mapping
import functools

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.training import optim
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.shelf import Shelf

RATE, BATCH = 1e-4, 16  # released code


def loss(projector, flat: Mapping, source, target) -> jax.Array:
  """Mean square over all entries of [S,Q,Ht]."""
  made = projector.apply({'params': params.unflatten(dict(flat))}, source)
  return jnp.mean((made - target) ** 2)


def step(projector, optimizer, rate: float):
  """Builds `(flat, moments, source, target) -> (flat, moments, loss)`."""
  objective = functools.partial(loss, projector)

  @jax.jit
  def run(flat, moments, source, target):
    value, grads = jax.value_and_grad(objective)(flat, source, target)
    rates = dict.fromkeys(flat, jnp.float32(rate))
    updates, moments = optimizer.update(
      grads, moments, flat, learning_rate=rates
    )
    return optim.apply_updates(flat, updates), moments, value

  return run


def drawn(tasks: int, size: int, rng: np.random.Generator) -> np.ndarray:
  """Numbers of tasks int[size]: each once before any comes again at random."""
  first = rng.permutation(tasks)[:size]
  return np.concatenate([first, rng.integers(0, tasks, size - len(first))])


def fit(
  projector: projectors.Projector,
  source: Shelf,
  target: Shelf,
  steps: int,
  rate: float = RATE,
  batch_size: int = BATCH,
  seed: int = 0,
) -> tuple[params.Flat, list[float]]:
  """Trains a projector on the tasks that both shelves have.

  Args:
    projector: of the target's length and width.
    source, target: prompts of the same tasks on both bases.
    steps: updates. rate: Adam's. batch_size: tasks of a step.
    seed: of the first weights and the tasks drawn.
  Returns: ({path: array}, loss of every step).
  Raises: UserError if no task has both prompts, or the projector makes
    prompts of another shape.
  """
  shared = [name for name in source.names if name in target.names]
  if not shared:
    raise UserError(
      f'The source prompts are of {", ".join(source.names)}, those of the '
      f'target of {", ".join(target.names)}; expected tasks that have both. '
      'Name the files after their tasks.'
    )
  made = (projector.length, projector.width)
  if made != (target.length, target.width):
    raise UserError(
      f'The projector makes prompts {list(made)} and the target prompts are '
      f'{[target.length, target.width]}; expected the same. Give --length='
      f'{target.length}, and prompts of the target base.'
    )
  x, y = source.only(shared).prompts, target.only(shared).prompts
  flat = projectors.initial(projector, x.shape[1:], seed)
  optimizer, rng = optim.adamw(), np.random.default_rng(seed)
  run, losses = step(projector, optimizer, rate), []
  moments = optimizer.init(flat)
  for _ in range(steps):
    rows = drawn(len(shared), batch_size, rng)
    flat, moments, value = run(flat, moments, x[rows], y[rows])
    losses.append(float(value))
  return flat, losses
