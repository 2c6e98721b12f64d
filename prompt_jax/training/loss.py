"""Cross entropy with z-loss, its normalizations, and the sums of a step.

    CE = log Z - logit[target];  loss = CE + z_loss (log Z)^2

The scalar to differentiate is a weighted sum over tokens, divided as
LOSS_NORMALIZING_FACTOR says. The sums beside it are never divided, so they
may be added over microbatches, hosts and steps before any metric is formed.
"""

from collections.abc import Callable, Mapping
import math

import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.t5.decode import first_largest

Sums = dict[str, jax.Array]
_NORMALIZINGS = (
  'NUM_REAL_TARGET_TOKENS',
  'NUM_TOTAL_TARGET_TOKENS',
  'AVERAGE_PER_SEQUENCE',
)


def token_losses(
  logits: jax.Array,
  targets: jax.Array,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
  """Cross entropy and z-loss of each token, in nats, unweighted.

  CE = -sum_v q_v log softmax(logits)_v - entropy(q)
  q = 1 - s on the target, s / (V - 1) elsewhere;  z = z_loss (log Z)^2

  Args:
    logits: float[B,U,V].
    targets: int32[B,U].
    z_loss: coefficient of the z-loss.
    label_smoothing: s, in [0, 1). The entropy of q is taken off, so that a
      perfect prediction costs 0.
  Returns: (CE + z float32[B,U], z float32[B,U]).
  Raises: UserError for a label_smoothing outside [0, 1).
  Source: z-loss: Mesh-TensorFlow (Shazeer et al. 2018) and T5X; smoothing:
    Szegedy et al. 2016, section 7, with V - 1 instead of V as in T5X.
  """
  if not 0 <= label_smoothing < 1:
    raise UserError(
      f'loss got label_smoothing={label_smoothing!r}; expected a number of '
      'at least 0 and below 1. Correct loss.label_smoothing.'
    )
  logits = logits.astype(jnp.float32)
  # log Z - logit would lose the small difference of two large numbers
  largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  shifted = logits - largest
  log_sum = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))  # [B,U]
  # a comparison, not a gather: it stays local where V is split over devices
  columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  hit = columns == targets[..., None]
  at_target = jnp.sum(jnp.where(hit, shifted, 0.0), axis=-1)
  if label_smoothing:
    high = 1.0 - label_smoothing
    low = label_smoothing / (logits.shape[-1] - 1)
    entropy = -high * math.log(high) - label_smoothing * math.log(low)
    expected = (high - low) * at_target + low * jnp.sum(shifted, axis=-1)
    cross_entropy = log_sum - expected - entropy
  else:
    cross_entropy = log_sum - at_target
  penalty = z_loss * jnp.square(log_sum + largest[..., 0])
  return cross_entropy + penalty, penalty


def weighted_sum(values: jax.Array, weights: jax.Array) -> jax.Array:
  """sum(values * weights) as a float32 scalar; both [B,U]."""
  return jnp.sum(values.astype(jnp.float32) * weights.astype(jnp.float32))


def normalizer(
  kind: str | float | None, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """The weights and the divisor that LOSS_NORMALIZING_FACTOR stands for.

  scalar loss = sum(weights * token losses) / divisor

  Args:
    kind: None (divide by 1); a number (divide by it);
      'NUM_REAL_TARGET_TOKENS' (by the sum of the weights);
      'NUM_TOTAL_TARGET_TOKENS' (by B * U, padding included); or
      'AVERAGE_PER_SEQUENCE' (mean over rows of the mean over a row's tokens).
    batch: 'decoder_loss_weights' float32[B,U]; a row is one sequence.
  Returns: (weights float32[B,U], divisor float32 scalar).
  Raises: UserError for an unknown name or a number that is not above 0.
  Source: T5X's loss_normalizing_factor.
  Departures: a batch of weight 0 costs 0, where T5X gives 0 / 0.
  """
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  if not isinstance(kind, str):
    return weights, _constant(kind)
  if kind not in _NORMALIZINGS:
    raise UserError(
      f'LOSS_NORMALIZING_FACTOR is {kind!r}; expected None, a number above 0 '
      f'or one of {", ".join(_NORMALIZINGS)}. Did you mean '
      f'{nearest(kind, _NORMALIZINGS, 1)[0]!r}?'
    )
  if kind == 'NUM_TOTAL_TARGET_TOKENS':
    return weights, jnp.float32(weights.size)
  if kind == 'AVERAGE_PER_SEQUENCE':
    weights = weights / _or_one(weights.sum(axis=-1, keepdims=True))
  return weights, _or_one(weights.sum())


def _constant(number: float | None) -> jax.Array:
  """A divisor that does not depend on the batch."""
  if number is None:
    return jnp.float32(1.0)
  if not number > 0:
    raise UserError(
      f'LOSS_NORMALIZING_FACTOR is {number!r}; expected a number above 0, or '
      'None for the plain sum over tokens.'
    )
  return jnp.float32(number)


def _or_one(total: jax.Array) -> jax.Array:
  """`total` where it is above 0, else 1: what it would divide is 0 there."""
  return jnp.where(total > 0, total, 1.0)


def loss(
  logits: jax.Array,
  batch: Mapping[str, jax.Array],
  *,
  z_loss: float = 1e-4,  # T5X's public gin files
  label_smoothing: float = 0.0,
  normalizing: str | float | None = None,
  divisor: jax.Array | None = None,
) -> tuple[jax.Array, Sums]:
  """The scalar to differentiate, and what metrics are made from.

  sum(weights * (CE + z)) / divisor

  Args:
    logits: float[B,U,V].
    batch: 'decoder_target_tokens' int32[B,U], 'decoder_loss_weights'
      float32[B,U].
    z_loss, label_smoothing: see `token_losses`.
    normalizing: see `normalizer`.
    divisor: where `batch` is one microbatch, `normalizer(kind, whole)[1]` of
      the whole batch: gradients of microbatches then add up to the whole's.
      None takes the divisor of `batch`.
  Returns: (float32 scalar, sums), sums a dict of float32 scalars:
    loss, z_loss: weighted sums in nats, not divided (loss includes z_loss).
    correct: weighted number of tokens whose target has the largest logit.
    weights: sum of the weights. tokens: positions of weight above 0.
    positions: B * U, padding included.
    sequences: rows with any weight; a row that only pads does not count.
    Counts are exact to 2**24 per call; add many calls in float64.
  Raises: UserError as `token_losses` and `normalizer`.
  Source: T5X's EncoderDecoderModel.loss_fn and its metrics.
  Departures: metrics do not depend on `normalizing`; T5X divides its
    per-token losses by it once more.
  """
  targets = batch['decoder_target_tokens']
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  losses, penalties = token_losses(logits, targets, z_loss, label_smoothing)
  shares, own_divisor = normalizer(normalizing, batch)
  total = weighted_sum(losses, shares)
  total /= own_divisor if divisor is None else divisor
  real = weights > 0
  sums = {
    'loss': weighted_sum(losses, weights),
    'z_loss': weighted_sum(penalties, weights),
    'correct': weighted_sum(first_largest(logits) == targets, weights),
    'weights': weights.sum(),
    'tokens': real.sum(dtype=jnp.float32),
    'positions': jnp.float32(weights.size),
    'sequences': real.any(axis=-1).sum(dtype=jnp.float32),
  }
  return total, jax.lax.stop_gradient(sums)


def teacher_forced(
  call: Callable, batch: Mapping[str, jax.Array], **options
) -> tuple[jax.Array, Sums]:
  """The loss of a training step unless the run chooses another.

  Any such choice is a callable with these arguments.

  Args:
    call: runs the model, see `training.step.Call`.
    batch: what the model reads and `loss` reads.
    options: those of `loss`.
  Returns: as `loss`.
  """
  logits = call(
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    batch['task_ids'],
  )
  return loss(logits, batch, **options)
