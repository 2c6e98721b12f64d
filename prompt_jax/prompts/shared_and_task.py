"""`SharedAndTask`: one prompt for all tasks, combined with a part of each.

With t the part of the row's task:

    add               shared [P,H] + t [P,H]
    concat            shared [P-Q,H], then t [Q,H]
    concat_features   shared [P,G] beside t [P,H-G]
    project           shared [P,G] K_t + b_t         K_t [G,H], b_t [H]
    rank_one          shared [P,H] * u_t v_t         u_t [P], v_t [H]

Source: the first four: released code of Lester et al. 2021, extended
multitask prompts; the last: Wang et al. 2023 (MPT), section 3.1, equation 1.
Departures from that code: the shared part trains too (its pattern missed it);
`length` is the whole prompt's; a task's part is stored in its own shape.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts import initializers
from prompt_jax.prompts.linear import EXACT
from prompt_jax.typing import Array, Float

COMBINE = ('add', 'concat', 'concat_features', 'project', 'rank_one')


class SharedAndTask(nn.Module):
  """A shared prompt and a part a task.

  Args:
    num_tasks: M.
    length: P, of the whole prompt.
    combine: one of `COMBINE`.
    task_length: Q, of 'concat'; None is half of P.
    shared_features: G, width of the shared part of 'concat_features' and
      'project'; None is half of H and H.
    init: `(rng, (P, H)) -> [P,H]` of the shared part, in its own shape.
    task_init: `(rng, shape) -> array` of a task's part; None is U[0, 0.5) and,
      for 'rank_one', 1, with which every task starts at the shared prompt.
  """

  num_tasks: int = 1
  length: int = 100
  combine: str = 'add'
  task_length: int | None = None
  shared_features: int | None = None
  init: Callable | None = None
  task_init: Callable | None = None

  instance_wise = False

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B]; embeds [B,T,H] for its width; mask unread.

    Raises: UserError for an unknown `combine` or sizes that do not fit.
    """
    del mask
    if self.combine not in COMBINE:
      raise UserError(
        f'SharedAndTask got combine={self.combine!r}; expected one of '
        f'{COMBINE}. Nearest: '
        f'{params.nearest(str(self.combine), COMBINE, 1)[0]!r}.'
      )
    width = embeds.shape[-1]
    return getattr(self, f'_{self.combine}')(task_ids, self.length, width)

  def _shared(self, length, width):
    init = self.init or initializers.uniform_released()
    init = nn.with_logical_partitioning(init, ('prompt', 'prompt_embed'))
    return self.param('shared', init, (length, width))

  def _task(self, name, task_ids, shape, axes, default=None):
    """The rows [B, *shape] of a table [M, *shape]."""
    init = self.task_init or default or initializers.uniform_released()

    def tables(rng, sizes):
      keys = jax.random.split(rng, sizes[0])
      return jnp.stack([init(key, sizes[1:]) for key in keys])

    init_all = nn.with_logical_partitioning(tables, ('tasks', *axes))
    table = self.param(name, init_all, (self.num_tasks, *shape))
    return jnp.take(table, task_ids, axis=0)

  def _add(self, task_ids, length, width):
    axes = ('prompt', 'prompt_embed')
    own = self._task('tasks', task_ids, (length, width), axes)
    return self._shared(length, width)[None] + own

  def _concat(self, task_ids, length, width):
    last = _part('task_length', self.task_length, length // 2, length)
    axes = ('prompt', 'prompt_embed')
    own = self._task('tasks', task_ids, (last, width), axes)
    shared = self._shared(length - last, width)[None]
    shared = jnp.broadcast_to(shared, (len(own), *shared.shape[1:]))
    return jnp.concatenate([shared, own], axis=1)

  def _concat_features(self, task_ids, length, width):
    first = _part('shared_features', self.shared_features, width // 2, width)
    axes = ('prompt', 'prompt_embed')
    own = self._task('tasks', task_ids, (length, width - first), axes)
    shared = self._shared(length, first)[None]
    shared = jnp.broadcast_to(shared, (len(own), *shared.shape[1:]))
    return jnp.concatenate([shared, own], axis=2)

  def _project(self, task_ids, length, width):
    inner = self.shared_features or width
    axes = (None, 'prompt_embed')
    kernel = self._task('kernels', task_ids, (inner, width), axes)
    bias = self._task('biases', task_ids, (width,), axes[1:])
    shared = self._shared(length, inner)
    made = jnp.einsum('pg,bgh->bph', shared, kernel, precision=EXACT)
    return made + bias[:, None]

  def _rank_one(self, task_ids, length, width):
    ones = lambda rng, shape: jnp.ones(shape, jnp.float32)
    rows = self._task('rows', task_ids, (length,), ('prompt',), ones)
    columns = self._task('columns', task_ids, (width,), ('prompt_embed',), ones)
    outer = rows[:, :, None] * columns[:, None, :]
    return self._shared(length, width)[None] * outer


def _part(name, size, default, whole):
  """The size of one of two parts, checked to leave something of the other."""
  size = default if size is None else size
  if not 0 < size < whole:
    raise UserError(
      f'SharedAndTask got {name}={size} of {whole}; expected at least 1 and '
      f'at most {whole - 1}, so that shared and task part have both a share. '
      f'Correct SharedAndTask.{name}.'
    )
  return size
