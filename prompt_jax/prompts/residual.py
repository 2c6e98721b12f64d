"""`Residual`: a prompt made by a small network with a skip around it.

    out_i = p_i + phi(p_i)            p [P,H] of an inner source, trained

phi is `MLP`, `LSTM` or `Transformer`, one for all positions or one each. It
reads no input, so that export folds it into a plain [P,H].
Source: Razdaibiedina et al. 2023, section 3.
Departures from the released code: rows are drawn once and with a seed; the
network's rate can be set apart (rows of the train table for
`prompt/inner/.*` and `prompt/network/.*`); what is exported is the sum, not p.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.prompts.mlp import MLP
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.rows import by_task
from prompt_jax.typing import Array, Float


class Residual(nn.Module):
  """A source over another one.

  Args:
    source: factory of the inner source, a class or a partial of one.
    kind: factory of the network, float32[..., P, H] -> the same shape.
    separate: a network for each position instead of one for all.
    residual: whether the skip is there; without it this is the plain
      reparameterization of Li and Liang 2021, section 4.3.
  """

  source: Callable[[], nn.Module] = Prompt
  kind: Callable[[], nn.Module] = MLP
  separate: bool = False
  residual: bool = True

  def setup(self):
    if not callable(self.kind):
      raise UserError(
        f'Residual got kind={self.kind!r}; expected a network, a class and not '
        'its name. Use --gin.NETWORK=@prompts.MLP, @prompts.LSTM or '
        '@prompts.Transformer.'
      )
    self.inner = self.source()
    self.network = self.kind()

  def _inner(self) -> nn.Module:
    """The inner source; outside of a model, one to read settings off."""
    # a module made in a method belongs to its module, unless told otherwise
    return self.source(parent=None) if self.scope is None else self.inner

  @property
  def instance_wise(self) -> bool:
    """As the inner source."""
    return self._inner().instance_wise

  @property
  def num_tasks(self) -> int:
    """As the inner source."""
    return self._inner().num_tasks

  @property
  def length(self) -> int:
    """As the inner source."""
    return self._inner().length

  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B], embeds [B,T,H] and mask: as the inner reads."""
    if self.instance_wise:
      return self._made(self.inner(task_ids, embeds, mask))
    # once a task, not once a row of the batch
    tables = self._made(by_task(self.inner, embeds))
    return jnp.take(tables, task_ids if len(tables) > 1 else 0 * task_ids, 0)

  def _made(self, prompt):
    """float32[N,P,H] through the network."""
    if self.separate:
      each = nn.vmap(
        lambda network, row: network(row),
        in_axes=-3,
        out_axes=-3,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        metadata_params={nn.PARTITION_NAME: 'prompt'},
      )
      change = each(self.network, prompt[..., None, :])[..., 0, :]
    else:
      change = self.network(prompt)
    return prompt + change if self.residual else change
