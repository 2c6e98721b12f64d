"""`Projected`: frozen prompts of another base, through a trained projector.

    out[b] = proj(bank[task_ids[b]])        bank [M,P,Hs] frozen

A prompt source like any other: trained by the loss of the target model, and
exported as plain prompts of this base's width.
Source: Su et al. 2022, section 4.2, task tuning.
Departures: the projected prompt stays in the graph; the released code for T5
targets cuts it out, so that its projector never moves.
"""

from collections.abc import Sequence
import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_jax.prompts.bank import Bank
from prompt_jax.transfer.projector import Projector
from prompt_jax.typing import Array, Float


class Projected(nn.Module):
  """Prompts of other tasks on another base, projected to this one.

  Args:
    paths: saved prompts of the source base, in the order of the task ids.
    source_length, source_width: P, Hs of theirs.
    length: Q, of what is made.
    hidden, activation, norm, flat, scaled, kernels: of the `Projector`.
    blind: puts zeros for the source: the constant prompt that a projector
      has to beat on tasks it was not trained on.
  """

  paths: Sequence[str | os.PathLike]
  source_length: int
  source_width: int
  length: int
  hidden: int | None = 768
  activation: str = 'leaky_relu'
  norm: bool = True
  flat: bool = True
  scaled: bool = False
  kernels: str = 'uniform'
  blind: bool = False

  instance_wise = False

  @property
  def num_tasks(self) -> int:
    return len(self.paths)

  def projector(self, width: int, **fields) -> Projector:
    """The projector to prompts of a width."""
    return Projector(
      self.length,
      width,
      self.hidden,
      self.activation,
      self.norm,
      self.flat,
      self.scaled,
      self.kernels,
      **fields,
    )

  def check(self, width: int) -> None:
    """Raises UserError for prompts of another shape, or a bad projector."""
    self.projector(width, parent=None).check()
    Bank(self.paths, self.source_length, parent=None).check(self.source_width)

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B]; embeds [B,T,H] for its width; mask unread."""
    del mask
    bank = Bank(self.paths, self.source_length, name='bank')
    sources = jax.lax.stop_gradient(bank(self.source_width))  # [M,P,Hs]
    sources = sources * (0.0 if self.blind else 1.0)
    project = self.projector(embeds.shape[-1], name='projector')
    return jnp.take(project(sources), task_ids, axis=0)
