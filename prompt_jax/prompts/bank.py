"""`Bank`: saved prompts of source tasks, [S,P,H], that stay as they are.

    out[s] = the saved prompt of path s                frozen

Source: Asai et al. 2022, section 3.1. Departures: none.
"""

from collections.abc import Sequence
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.typing import Array, Float


class Bank(nn.Module):
  """Frozen source prompts, read when the model is initialised.

  They are parameters, `bank/prompts`, so that they shard, count and are
  checked as any other; no row of the train table should name them.

  Args:
    paths: saved prompts, see `saved.load`.
    length: P, which each of them has to have.
    axis: logical name of the first axis: 'tasks' where prompt s is that of
      task s.
  """

  paths: Sequence[str | os.PathLike] = ()
  length: int = 100
  axis: str | None = None

  @property
  def files(self) -> tuple[str | os.PathLike, ...]:
    """The saved prompts that the parameter is read from."""
    return tuple(self.paths)

  @property
  def names(self) -> tuple[str, ...]:
    """What the sources are called: their files, without folder and .npy."""
    return tuple(pathlib.Path(path).stem for path in self.paths)

  def check(self, width: int) -> None:
    """Raises UserError if there are no paths, or one is no prompt [P, width].

    A run asks before it builds anything; the parameter itself is read when
    its value is needed, not when only its shape is.
    """
    if isinstance(self.paths, str) or not self.paths:
      raise UserError(
        f'Bank got paths={self.paths!r}; expected a list of saved prompts, '
        'one a source task. Give SOURCE_PROMPTS, such as '
        "\"['prompts/mnli.npy', 'prompts/sst2.npy']\"."
      )
    for path in self.paths:
      saved.load(path, (self.length, width))

  @nn.compact
  def __call__(self, width: int) -> Float[Array, 'S P H']:
    """Args: width H. Returns: float32[S,P,H], in the order of the paths."""
    if self.has_variable('params', 'prompts'):
      # asking `param` again would compare shapes for nothing
      return nn.meta.unbox(self.get_variable('params', 'prompts'))

    def read(shape):
      stacked = np.zeros(shape, np.float32)
      for row, path in zip(stacked, self.paths, strict=True):
        row[:] = saved.load(path, shape[1:])[0]
      return stacked

    def init(rng, shape):
      del rng
      out = jax.ShapeDtypeStruct(shape, jnp.float32)
      return jax.pure_callback(lambda: read(shape), out)

    return self.param(
      'prompts',
      nn.with_logical_partitioning(init, (self.axis, 'prompt', 'prompt_embed')),
      (len(self.paths), self.length, width),
    )
