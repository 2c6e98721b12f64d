"""Losses over labels: the right one is to score above the others.

    s_c = sum_u w_cu log p(label_cu | input) / sum_u w_cu     one score a label
    hinge:    max(0, margin + max_c s_c - s_right)
    softmax:  log sum_c exp s_c - s_right + z_loss (log sum_c exp s_c)^2

Source: released code of Lester et al. 2021, extended losses over labels.
Departures: the input is encoded once, not once a label; the right label need
not be among the given ones, which spares a list a task. Like it: the maximum
of the hinge is over the right label too, so that a right answer costs the
margin and has no gradient.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.training import loss as losses
from prompt_jax.typing import Array, Bool, Float, Int

EOS = 1


def hinge(
  scores: Float[Array, 'B C'],
  right: Bool[Array, 'B C'],
  z_loss: float = 0.0,
  margin: float = 0.2,
) -> Float[Array, ' B']:
  """max(0, margin + max_c s_c - s_right).

  Args:
    scores: float32[B,C]; -inf is no choice.
    right: bool[B,C], one true in each row.
    z_loss: unread.
    margin: 0.2 in the released configuration.
  Returns: float32[B].
  """
  del z_loss
  best = jnp.max(scores, axis=1)
  return jnp.maximum(0.0, margin + best - _at(scores, right))


def softmax(
  scores: Float[Array, 'B C'], right: Bool[Array, 'B C'], z_loss: float = 0.0
) -> Float[Array, ' B']:
  """log Z - s_right + z_loss (log Z)^2, Z = sum_c exp s_c.

  Args: as `hinge`.
  Returns: float32[B].
  """
  log_sum = jax.nn.logsumexp(scores, axis=1)
  return log_sum - _at(scores, right) + z_loss * jnp.square(log_sum)


def _at(scores, right):
  return jnp.sum(jnp.where(right, scores, 0.0), axis=1)


def label_scores(
  call: Callable,
  inputs: Int[Array, 'B T'],
  task_ids: Int[Array, ' B'],
  targets: Int[Array, 'B C U'],
  by_length: bool = True,
) -> Float[Array, 'B C']:
  """Scores of several targets of each input.

  Args:
    call: runs the model, see `training.step.Call`.
    targets: padded with 0.
    by_length: divides by the number of tokens.
  """
  rows, choices, length = targets.shape
  encoded = call(inputs, task_ids, method='encode')
  flat = targets.reshape(rows * choices, length)
  shifted = jnp.pad(flat[:, :-1], ((0, 0), (1, 0)))
  ids = jnp.repeat(task_ids, choices)
  logits = call(encoded, shifted, flat, ids, method='decode')
  weights = (flat > 0).astype(jnp.float32)
  scores = -jnp.sum(weights * losses.token_losses(logits, flat)[0], axis=1)
  if by_length:
    scores /= jnp.maximum(weights.sum(axis=1), 1.0)
  return scores.reshape(rows, choices)


@dataclasses.dataclass(frozen=True)
class Ranking:
  """A loss for `train.Run.loss`: the target ranked against labels.

  Args:
    labels: the texts to rank; the target of an example may be one of them.
    encode: str -> ids, without EOS.
    criterion: `(scores [B,C], right [B,C], z_loss) -> [B]`.
    by_length: divides scores by the number of tokens.
  """

  labels: Sequence[str]
  encode: Callable[[str], Sequence[int]]
  criterion: Callable = hinge
  by_length: bool = True

  def __post_init__(self):
    if not callable(self.criterion):
      raise UserError(
        f'Ranking got criterion={self.criterion!r}; expected a function and '
        'not its name. Use --gin.CRITERION=@ranking.hinge or '
        '@ranking.softmax.'
      )

  def _tokens(self, length: int) -> np.ndarray:
    """int32[C,U]: the labels with EOS, padded to the targets' length."""
    if isinstance(self.labels, str) or not self.labels:
      raise UserError(
        f'Ranking got labels={self.labels!r}; expected a list of strings, '
        "e.g. ['positive', 'negative']. Correct Ranking.labels."
      )
    rows = [[*self.encode(label), EOS] for label in self.labels]
    longest = max(map(len, rows))
    if longest > length:
      raise UserError(
        f'The longest of the labels {list(self.labels)} has {longest} tokens; '
        f'expected at most {length}, as the targets. Use '
        f'--gin.TASK_FEATURE_LENGTHS with targets of {longest}.'
      )
    tokens = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
      row[: len(ids)] = ids
    return tokens

  def __call__(
    self,
    call: Callable,
    batch: Mapping[str, jax.Array],
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    normalizing=None,
    divisor=None,
  ):
    """As `loss.teacher_forced`; `sums` count examples instead of tokens.

    Raises: UserError for label_smoothing, which no criterion here knows.
    """
    if label_smoothing:
      raise UserError(
        f'Ranking got label_smoothing={label_smoothing}; expected 0, for its '
        'scores are of whole labels. Use --gin.LABEL_SMOOTHING=0.0.'
      )
    right = batch['decoder_target_tokens']
    others = jnp.asarray(self._tokens(right.shape[1]))[None]
    others = jnp.broadcast_to(others, (len(right), *others.shape[1:]))
    targets = jnp.concatenate([right[:, None], others], axis=1)  # [B,1+C,U]
    inputs, ids = batch['encoder_input_tokens'], batch['task_ids']
    scores = label_scores(call, inputs, ids, targets, self.by_length)
    same = jnp.all(targets == right[:, None], axis=2)
    first = jnp.broadcast_to(jnp.arange(targets.shape[1]) == 0, same.shape)
    scores = jnp.where(same & ~first, -jnp.inf, scores)  # the target, again
    real = (batch['decoder_loss_weights'] > 0).any(axis=1)
    each = jnp.where(real, self.criterion(scores, first, z_loss), 0.0)
    if divisor is None:
      divisor = losses.normalizer(normalizing, batch)[1]
    count = real.sum(dtype=jnp.float32)
    sums = {
      'loss': each.sum(),
      'z_loss': jnp.float32(0.0),
      'correct': jnp.sum(
        real & (scores.argmax(axis=1) == 0), dtype=jnp.float32
      ),
      'weights': count,
      'tokens': jnp.sum(batch['decoder_loss_weights'] > 0, dtype=jnp.float32),
      'positions': jnp.float32(right.size),
      'sequences': count,
    }
    return each.sum() / divisor, jax.lax.stop_gradient(sums)
