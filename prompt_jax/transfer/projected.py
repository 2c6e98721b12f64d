"""`Projected`: frozen prompts of another base, through a trained projector.

    out[b] = proj(bank[task_ids[b]])        bank [M,P,Hs] frozen
    loss  += w mean (proj(bank) - own)^2    own [M,Q,H] frozen, if given

A prompt source like any other: trained by the loss of the target model, and
exported as plain prompts of this base's width. With the base's own prompts
given, their distance is added to that loss.
Source: Su et al. 2022, section 4.2, task tuning; distance minimising alone,
without the model, is `distance`.
Departures: the projected prompt stays in the graph; the released code for T5
targets cuts it out, so that its projector never moves. Both objectives at
once, and dropout of the sources, are not there: they are against a collapse.
"""

from collections.abc import Sequence
import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.linear import Dropout
from prompt_jax.transfer import shelf
from prompt_jax.transfer.projector import Projector
from prompt_jax.typing import Array, Float

_Paths = Sequence[str | os.PathLike]


class Projected(nn.Module):
  """Prompts of other tasks on another base, projected to this one.

  Args:
    paths: saved prompts of the source base, in the order of the task ids; a
      single one is that of all tasks.
    source_length, source_width: P, Hs of theirs; None reads the first file.
    length: Q, of what is made.
    hidden, activation, norm, flat, scaled, kernels: of the `Projector`.
    dropout: share of the entries of a source that a step leaves out.
    targets: saved prompts [Q,H] of this base, one for each of the paths, to
      stay near to; None is the task loss alone.
    weight: w, of their mean squared distance.
    blind: puts zeros for the source: the constant prompt that a projector
      has to beat on tasks it was not trained on.
  """

  paths: _Paths
  source_length: int | None = None
  source_width: int | None = None
  length: int = 100
  hidden: int | None = 768
  activation: str = 'leaky_relu'
  norm: bool = True
  flat: bool = True
  scaled: bool = False
  kernels: str = 'uniform'
  dropout: float = 0.0
  targets: _Paths | None = None
  weight: float = 1.0
  blind: bool = False

  instance_wise = False

  @property
  def num_tasks(self) -> int:
    return len(self.paths)

  @property
  def files(self) -> tuple[str | os.PathLike, ...]:
    """The saved prompts that have to be of this base: the targets."""
    return tuple(self.targets or ())

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

  def source_shape(self) -> tuple[int, int]:
    """(P, Hs) of the sources; reads a file where a field does not say it."""
    said = (self.source_length, self.source_width)
    if None not in said:
      return said
    found = saved.load(self.paths[0])[0].shape
    return tuple(
      n if n is not None else m for n, m in zip(said, found, strict=True)
    )

  def check(self, width: int) -> None:
    """Raises UserError for prompts of another shape, or a bad projector."""
    if isinstance(self.paths, str) or not self.paths:
      raise UserError(
        f'Projected got paths={self.paths!r}; expected a list of saved '
        'prompts of another base, one a task in the order of '
        'MIXTURE_OR_TASK_NAME. Give SOURCE_PROMPTS, such as "[\'sst2.npy\']".'
      )
    self.projector(width, parent=None).check()
    # of each other's shape and base, whatever the fields say
    found = shelf.read({str(path): path for path in self.paths})
    shape = (found.length, found.width)
    if shape != self.source_shape():
      raise UserError(
        f'The source prompts are {list(shape)}, {found.names[0]} first; '
        f'expected {list(self.source_shape())}, as source_length and '
        'source_width say. Leave both out: None reads the files.'
      )
    if not self.flat and shape[0] != self.length:
      raise UserError(
        f'The source prompts have {shape[0]} rows and PROMPT_LENGTH is '
        f'{self.length}; expected the same where each row is mapped alone. '
        f'Give PROMPT_LENGTH={shape[0]}, or FLAT=True.'
      )
    if self.targets is not None:
      self._check_targets(width)

  def _check_targets(self, width: int) -> None:
    if len(self.targets) != len(self.paths):
      raise UserError(
        f'There are {len(self.targets)} target prompts and {len(self.paths)} '
        'source prompts; expected one for each, of the same tasks in the same '
        'order. Correct TARGET_PROMPTS, or leave it out.'
      )
    Bank(self.targets, self.length, parent=None).check(width)

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B]; embeds [B,T,H] for its width; mask unread."""
    del mask
    width, (rows, wide) = embeds.shape[-1], self.source_shape()
    bank = Bank(self.paths, rows, 'tasks', name='bank')
    sources = jax.lax.stop_gradient(bank(wide))  # [M,P,Hs]
    sources = sources * (0.0 if self.blind else 1.0)
    made = self.projector(width, name='projector')(
      Dropout(self.dropout)(sources)
    )
    if self.targets is not None:
      own = Bank(self.targets, self.length, 'tasks', name='own')(width)
      apart = jnp.mean(jnp.square(made - jax.lax.stop_gradient(own)))
      self.sow('losses', 'distance', self.weight * apart)
    # a single source is that of all tasks
    return jnp.take(made, task_ids if len(made) > 1 else 0 * task_ids, axis=0)
