"""`Attempt`: a prompt of its own for each input, mixed from several.

    x  = max over real positions of the embedded input            [H]
    h  = LN(W_up silu(W_down x))                                  [H]
    a  = softmax over j of max_i P_j[i] . h / temperature         [S+1]
    out = Q + sum_j a_j P_j                                       [P,H]

P_1 .. P_S are the frozen prompts of a bank and P_(S+1) = Q is the target
prompt of the row's task, which trains with W_down, W_up and LN. Q is key,
value and summand; nothing is detached. Several tasks share one attention.
Source: Asai et al. 2022, section 3; its released code, attention `sub`.
Departures from that code: padding does not enter the maximum (`pool_padding`
brings it back); LN trains if the train table says so, there it never does;
the temperature is e H for any H, there 2087 = e 768; task ids reach
inference; float32 throughout. Like it: maxima over positions, no biases, a
bottleneck of 100 at every width.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.linear import EXACT, Linear, layer_norm
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.typing import Array, Bool, Float

KINDS = ('sub', 'token', 'constant')


class Mixture(NamedTuple):
  """What the attention made of a batch; axis 1 is sources, then target.

  scores and weights are [B,S+1], or [B,S+1,P] where each position has its own.
  """

  prompt: Float[Array, 'B P H']
  scores: Array
  weights: Array


class Query(nn.Module):
  """LN(W_up silu(W_down x)), what an input asks of the prompts.

  Args:
    bottleneck: D, width between the two maps.
  """

  bottleneck: int = 100

  @nn.compact
  def __call__(self, x: Float[Array, 'B H']) -> Float[Array, 'B H']:
    """Args: x float32[B,H]. Returns: float32[B,H]."""

    def linear(features, axes, name):
      init = nn.initializers.normal(0.01)  # released code
      return Linear(features, axes, use_bias=False, init=init, name=name)

    down = linear(self.bottleneck, ('prompt_embed', None), 'down')
    up = linear(x.shape[-1], (None, 'prompt_embed'), 'up')
    return layer_norm('norm')(up(nn.silu(down(x))))


def pooled_max(
  embeds: Float[Array, 'B T H'], mask: Bool[Array, 'B T']
) -> Float[Array, 'B H']:
  """Maximum over the real positions; 0 where a row has none."""
  real = jnp.where(mask[:, :, None], embeds, -jnp.inf).max(axis=1)
  return jnp.where(mask.any(axis=1)[:, None], real, 0.0)


class Attempt(nn.Module):
  """An attentional mixture of source prompts and a target prompt.

  Args:
    target: factory of the source of target prompts, a class or a partial of
      one; None mixes the sources alone and adds nothing.
    sources: factory of the bank, likewise.
    attention: 'sub' (one weight a prompt); 'token' (one weight a prompt and
      position: the score of a position is its own row . h); 'constant' (all
      weights equal: no query).
    bottleneck: of the query.
    temperature: divides the scores; None is e H.
    pool_padding: as the released code, lets the embedding of the padding
      token compete for the maximum.
  """

  target: Callable[[], nn.Module] | None = TaskPrompts
  sources: Callable[[], nn.Module] = Bank
  attention: str = 'sub'
  bottleneck: int = 100
  temperature: float | None = None
  pool_padding: bool = False

  instance_wise = True

  def setup(self):
    if self.attention not in KINDS:
      raise UserError(
        f'Attempt got attention={self.attention!r}; expected one of {KINDS}. '
        f'Nearest: {params.nearest(str(self.attention), KINDS, 1)[0]!r}.'
      )
    if self.temperature is not None and not self.temperature > 0:
      raise UserError(
        f'Attempt got temperature={self.temperature}; expected a number above '
        '0, which the scores are divided by, or None for e times the width. '
        'Correct TEMPERATURE.'
      )
    self.bank = self.sources()
    self.targets = self.target() if self.target else None
    if self.attention != 'constant':
      self.query = Query(self.bottleneck)

  def _part(self, factory: str, made: str):
    """A submodule; outside of a model, one to read settings off."""
    if self.scope is not None:
      return getattr(self, made)
    make = getattr(self, factory)
    # a module made in a method belongs to its module, unless told otherwise
    return make(parent=None) if make else None

  @property
  def num_tasks(self) -> int:
    """Tasks with a target prompt of their own."""
    target = self._part('target', 'targets')
    return target.num_tasks if target else 1

  @property
  def length(self) -> int:
    """P, positions of each prompt."""
    return self._part('sources', 'bank').length

  @property
  def names(self) -> tuple[str, ...]:
    """What axis 1 of the weights stands for."""
    names = self._part('sources', 'bank').names
    return (*names, 'target') if self.target else names

  def check(self, width: int) -> None:
    """Raises UserError if the bank cannot be read, see `Bank.check`."""
    self._part('sources', 'bank').check(width)

  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B], embeds float[B,T,H], mask bool[B,T].

    The weights are sown as `intermediates/weights`.
    """
    mixed = self.mixture(task_ids, embeds, mask)
    self.sow('intermediates', 'weights', mixed.weights)
    return mixed.prompt

  def mixture(self, task_ids, embeds, mask) -> Mixture:
    """The prompt, with the scores and the weights it was mixed by."""
    embeds = embeds.astype(jnp.float32)
    rows, _, width = embeds.shape
    bank = self.bank(width)  # [S,P,H]
    every = jnp.broadcast_to(bank[None], (rows, *bank.shape))
    own = 0.0
    if self.targets is not None:
      own = self.targets(task_ids, embeds, mask)
      self._check(bank, own)
      every = jnp.concatenate([every, own[:, None]], axis=1)  # [B,S+1,P,H]
    scores = self._scores(every, embeds, mask)
    weights = nn.softmax(scores, axis=1)
    spread = weights if weights.ndim == 3 else weights[:, :, None]
    mixed = jnp.sum(spread[..., None] * every, axis=1)
    return Mixture(own + mixed, scores, weights)

  def _scores(self, every, embeds, mask):
    """[B,S+1], or [B,S+1,P] with a score for each position."""
    count = every.shape[1]
    if self.attention == 'constant':
      return jnp.full(every.shape[:2], 1 / count, jnp.float32)
    seen = jnp.ones_like(mask) if self.pool_padding else mask
    query = self.query(pooled_max(embeds, seen))
    usual = self.temperature is None
    query /= math.e * embeds.shape[-1] if usual else self.temperature
    if self.attention == 'token':
      return jnp.einsum('bjph,bh->bjp', every, query, precision=EXACT)
    keys = every.max(axis=2)
    return jnp.einsum('bjh,bh->bj', keys, query, precision=EXACT)

  def _check(self, bank, own):
    if bank.shape[1] != own.shape[1]:
      raise UserError(
        f'Attempt got source prompts of {bank.shape[1]} positions and target '
        f'prompts of {own.shape[1]}; expected the same. Set PROMPT_LENGTH='
        f'{bank.shape[1]}.'
      )
