"""One training step of several members over one frozen base.

    state [K,...], rates {path: [K]}, active [K], batch [K,B,...]
      -> state, sums [K,...]

What moves has an axis more, the member's; the base has none. Members are
taken `together` at a time: those are one product with each frozen matrix, and
the next follow in the same program. A member that is not active stays what it
is, and where one is taken at a time it costs nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from prompt_jax.training import sharding
from prompt_jax.training.program import Program
from prompt_jax.training.state import State
from prompt_jax.training.step import train_step


def stack(trees: Sequence[Any]) -> Any:
  """Trees of one structure as one, with a first axis of K."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree: Any, i: int) -> Any:
  """The i-th of the trees that `stack` made one of."""
  return jax.tree.map(lambda leaf: leaf[i], tree)


def default_together(count: int) -> int:
  """Members that are one product: 1 on a CPU, elsewhere all.

  A CPU is busy with one member's rows already, and temporaries of several
  fall out of its caches; benchmarks/sweep.py measures both.
  """
  return 1 if jax.default_backend() == 'cpu' else count


def stacked_step(
  model,
  optimizer,
  schedule: Callable,
  together: int,
  **options: Any,
) -> Callable:
  """Builds `step(state, rates, active, frozen, batch) -> (state, sums)`.

  Args:
    model, optimizer, schedule: of every member, see `training.step`.
    together: members of one vectorised pass.
    options: as of `training.step.train_step`.
  Returns: the step. `rates` is {trainable path: float32[K]}, `active`
    bool[K]; `sums` are those of `train_step` with a first axis of K, zeros
    for a member that is not active.
  """

  def step(state: State, rates, active, frozen, batch):
    @jax.jit  # traced once, though asked for its shapes first
    def update(state, rates, batch):
      each = train_step(model, optimizer, rates, schedule, **options)
      return each(state, frozen, batch)

    def one(args):
      state, rates, active, batch = args
      shapes = jax.eval_shape(update, state, rates, batch)[1]
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
      return jax.lax.cond(
        active,
        lambda: update(state, rates, batch),
        lambda: (state, zeros),
      )

    members = (state, rates, active, batch)
    if together == 1:
      return jax.lax.map(one, members)
    return jax.lax.map(one, members, batch_size=together)

  return step


def program(run, together: int, mesh: Mesh) -> Program:
  """The compiled stacked step of members that are like a `train.Run`.

  Their states are given away at each call.
  """
  normalizing = run.loss_normalizing_factor
  if normalizing == 'NUM_TOTAL_TARGET_TOKENS':  # the same for all lengths
    data = run.dataset
    normalizing = float(data.batch_size * data.task_feature_lengths['targets'])
  step = stacked_step(
    run.model,
    run.optimizer,
    run.schedule,
    together,
    loss=run.loss,
    z_loss=run.z_loss,
    label_smoothing=run.label_smoothing,
    loss_normalizing_factor=normalizing,
    microbatches=run.microbatches,
  )
  whole = sharding.replicated(mesh)
  return Program(
    'the stacked step',
    step,
    several=True,  # a program a length of the batches
    donate_argnums=(0,),
    out_shardings=whole,
  )


def rows(mesh) -> NamedSharding:
  """How a batch [K,B,...] lies: its rows over the `data` axis."""
  return NamedSharding(mesh, PartitionSpec(None, 'data'))


def put(mesh, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
  """Host batches of K members -> arrays [K,B,...]."""
  return {
    name: jax.make_array_from_process_local_data(
      rows(mesh), np.stack([batch[name] for batch in batches])
    )
    for name in batches[0]
  }


def parts(count: int, most: int) -> list[int]:
  """Sizes of as few groups as hold `count`, none above `most`, alike.

  parts(8, 3) = [3, 3, 2]
  """
  groups = -(-count // max(most, 1))
  size, more = divmod(count, groups)
  return [size + (i < more) for i in range(groups)]


def fitting(
  peak: float, shared: float, count: int, budget: float
) -> tuple[int, bool]:
  """How many members fit into memory, by a straight line through two points.

  bytes(k) = shared + k (peak - shared) / count

  Args:
    peak: bytes of the program of `count` members.
    shared: bytes that do not depend on their number: the base, and where
      members are taken a few at a time, the temporaries.
    count, budget: members, bytes.
  Returns: (members, at least 1 and at most `count`; whether one fits).
  """
  if peak <= budget:
    return count, True
  room = (budget - shared) * count / max(peak - shared, 1.0)
  return int(min(max(room, 1), count)), room >= 1
