"""Decoding by drawing one token at a time, and scores of given targets.

A model is seen through its `Step` only: one token per row and a cache in,
next-token logits and the new cache out. Beam search is in `beam.py`; all three
ways of decoding return ([B,K,U] tokens, [B,K] scores), the best LAST.

A cache is any pytree. A leaf with axes has the rows first (attention keys and
values, encoder states, encoder mask); a scalar (the position) is shared by all
rows and left alone.
"""

from collections.abc import Callable
import functools
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError

Cache = Any
# (int32[R,1] tokens, cache) -> (float32[R,V] logits, cache); R rows, where
# row b * K + k is decode k of example b.
Step = Callable[[jax.Array, Cache], tuple[jax.Array, Cache]]

PAD = 0  # T5's padding id, written after EOS
# T5X decodes greedily at or below this: 1 / temperature would overflow.
COLDEST = 1e-4


def sample(
  step: Step,
  cache: Cache,
  batch_size: int,
  max_length: int,
  *,
  rng: jax.Array | None = None,
  temperature: float = 1.0,
  top_k: int = 1,
  top_p: float = 0.0,
  num_decodes: int = 1,
  eos_id: int = 1,
  start_id: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Draws sequences token by token until EOS or max_length.

  token ~ softmax(filter(logits / temperature)); log_prob = sum of
  log softmax(logits)[token] up to and including EOS.

  Args (static under jit, but for cache and rng):
    step: one decoding step of the model.
    cache: leaves with axes have B rows; expanded to B * num_decodes here.
    batch_size: B.
    max_length: U, most tokens of an output, EOS included.
    rng: key of the draws. None is key 0: every call then draws the same.
    temperature: divides the logits; at or below 1e-4 decoding is greedy.
    top_k: draw among the k likeliest tokens; 1 is greedy, 0 is no limit.
    top_p: draw among the fewest likeliest tokens that together have at least
      this probability after the division by temperature; 0 is no limit.
    num_decodes: K, independent decodes of each example.
    eos_id, start_id: what ends a sequence, what is fed to the first step.
  Returns: tokens int32[B,K,U] and log probabilities float32[B,K] in nats of
    the model's own distribution (no temperature, no filter), ascending.
  Raises: UserError if both top_k and top_p limit the draw, or a setting is
    out of range; ValueError if a leaf of the cache has not B rows.
  Source: T5X temperature_sample with rescale_log_probs=False; Fan et al. 2018
    (top-k); Holtzman et al. 2020, section 3.1 (top-p).
  Departures: top_k=1 takes the first of ties; no forced target prefix.
  """
  require_counts(
    batch_size=batch_size, max_length=max_length, num_decodes=num_decodes
  )
  _require_filter(temperature, top_k, top_p)
  choose = functools.partial(
    _choose, temperature=temperature, top_k=top_k, top_p=top_p
  )
  rng = jax.random.key(0) if rng is None else rng
  rows = expand_rows(cache, batch_size, num_decodes)
  end = jax.lax.while_loop(
    lambda state: (state.index < max_length) & ~jnp.all(state.is_over),
    lambda state: _draw(state, step, choose, eos_id),
    _begin(rows, batch_size * num_decodes, max_length, rng, start_id),
  )
  tokens = end.tokens.reshape(batch_size, num_decodes, max_length)
  log_probs = end.log_probs.reshape(batch_size, num_decodes)
  order = jnp.argsort(log_probs, axis=1)
  return (
    jnp.take_along_axis(tokens, order[:, :, None], axis=1),
    jnp.take_along_axis(log_probs, order, axis=1),
  )


def greedy(
  step: Step,
  cache: Cache,
  batch_size: int,
  max_length: int,
  *,
  eos_id: int = 1,
  start_id: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Takes the likeliest token at every step: `sample` with top_k=1.

  token = argmax logits

  Args: as `sample`.
  Returns: tokens int32[B,1,U], log probabilities float32[B,1] in nats.
  Raises: as `sample`.
  Source: T5X temperature_sample at temperature 0.
  Departures: none.
  """
  return sample(
    step, cache, batch_size, max_length, eos_id=eos_id, start_id=start_id
  )


def score(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  """Log probability of given targets.

  out[b] = sum_u weights[b,u] log softmax(logits[b,u])[targets[b,u]]

  Args:
    logits: float32[B,U,V].
    targets: int32[B,U].
    weights: float32[B,U], 0 at padding.
  Returns: float32[B], nats; not divided by the length.
  Source: T5X EncoderDecoderModel.score_batch (no z-loss in the score).
  Departures: none.
  """
  chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
  log_probs = chosen - jax.nn.logsumexp(logits, axis=2)  # [B,U]
  # A weight of 0 must also silence an impossible target: 0 * -inf is NaN.
  return jnp.sum(jnp.where(weights == 0, 0, weights * log_probs), axis=1)


def first_largest(x: jax.Array) -> jax.Array:
  """argmax over the last axis, as two plain reductions.

  XLA's own is one reduction of pairs, which a CPU takes three times as long
  for. A row with NaN has no largest: its index is V, past the end.

  Args:
    x: [...,V].
  Returns: int32[...].
  """
  size = x.shape[-1]
  is_largest = x == x.max(axis=-1, keepdims=True)
  index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
  return jnp.where(is_largest, index, size).min(axis=-1)


def expand_rows(cache: Cache, batch_size: int, times: int) -> Cache:
  """Repeats each of the B rows of a cache, neighbours together.

  out[b * times + k] = leaf[b]; scalars stay as they are.

  Args:
    cache: pytree; leaves with axes are [B,...].
    batch_size: B.
    times: rows made of each row.
  Returns: the same pytree, leaves [B * times,...].
  Raises: ValueError if a leaf with axes has not B rows.
  """

  def expand(path, leaf):
    if jnp.ndim(leaf) == 0:
      return jnp.asarray(leaf)
    if leaf.shape[0] != batch_size:
      raise ValueError(
        f'Cache leaf {jax.tree_util.keystr(path)} has shape '
        f'{tuple(leaf.shape)}; expected {batch_size} rows (the batch size) '
        'on its first axis while decoding. Put the rows first; close over '
        'what has none in the step function.'
      )
    return leaf if times == 1 else jnp.repeat(leaf, times, axis=0)

  return jax.tree_util.tree_map_with_path(expand, cache)


def require_counts(**counts: int) -> None:
  """Raises UserError for a setting that is not a whole number of 1 or more."""
  for name, count in counts.items():
    if not isinstance(count, numbers.Integral) or count < 1:
      raise UserError(
        f'{name} is {count!r}; expected a whole number of at least 1 while '
        f'decoding. Set {name} to 1 or more.'
      )


def _require_filter(temperature, top_k, top_p):
  """Raises UserError for settings from which nothing sensible is drawn."""
  if top_k and top_p:
    raise UserError(
      f'top_k is {top_k!r} and top_p is {top_p!r}; expected at most one of '
      'them to be nonzero while decoding. Set top_k=0 to draw with top_p '
      '(top_k is 1 unless set), or top_p=0 to draw with top_k.'
    )
  if not isinstance(top_k, numbers.Integral) or top_k < 0:
    raise UserError(
      f'top_k is {top_k!r}; expected a whole number of at least 0 while '
      'decoding. Set 1 for greedy decoding, 0 to draw among all tokens.'
    )
  for name, value, most in (
    ('temperature', temperature, float('inf')),
    ('top_p', top_p, 1),
  ):
    if not 0 <= value <= most:
      raise UserError(
        f'{name} is {value!r}; expected a number from 0 to {most} while '
        f'decoding. Set {name} inside that range.'
      )


class _Drawing(NamedTuple):
  """What the sampling loop carries; R = B * K rows."""

  index: jax.Array  # int32[], tokens drawn so far
  token: jax.Array  # int32[R,1], drawn last
  tokens: jax.Array  # int32[R,U]
  log_probs: jax.Array  # float32[R]
  is_over: jax.Array  # bool[R], EOS was drawn
  rng: jax.Array
  cache: Cache


def _begin(cache, rows, max_length, rng, start_id) -> _Drawing:
  return _Drawing(
    index=jnp.int32(0),
    token=jnp.full((rows, 1), start_id, jnp.int32),
    tokens=jnp.full((rows, max_length), PAD, jnp.int32),
    log_probs=jnp.zeros((rows,), jnp.float32),
    is_over=jnp.zeros((rows,), bool),
    rng=rng,
    cache=cache,
  )


def _draw(state, step, choose, eos_id):
  """One step of the sampling loop: a token more for each open row."""
  # Split first and draw with the first half, as T5X does: the same key then
  # draws the same tokens.
  now, later = jax.random.split(state.rng)
  logits, cache = step(state.token, state.cache)  # [R,V]
  drawn = choose(logits, now)[:, None].astype(jnp.int32)  # [R,1]
  gain = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn, axis=1)[:, 0]
  token = jnp.where(state.is_over[:, None], PAD, drawn)
  return _Drawing(
    index=state.index + 1,
    token=token,
    tokens=jax.lax.dynamic_update_slice(state.tokens, token, (0, state.index)),
    log_probs=state.log_probs + jnp.where(state.is_over, 0, gain),
    is_over=state.is_over | (token[:, 0] == eos_id),
    rng=later,
    cache=cache,
  )


def _choose(logits, rng, *, temperature, top_k, top_p):
  """float32[R,V] logits -> int32[R] tokens."""
  if temperature <= COLDEST or top_k == 1:
    return first_largest(logits)
  logits = logits / temperature
  if top_k:
    best, _ = jax.lax.top_k(logits, min(top_k, logits.shape[1]))
    logits = jnp.where(logits >= best[:, -1:], logits, -jnp.inf)
  if top_p:
    logits = _keep_nucleus(logits, top_p)
  return jax.random.categorical(rng, logits)


def _keep_nucleus(logits, top_p):
  """Sets the logits outside the smallest set of mass top_p to -inf."""
  probs = jax.nn.softmax(logits, axis=1)
  falling = jnp.sort(probs, axis=1, descending=True)
  mass = jnp.cumsum(falling, axis=1)
  # A token is needed while those before it have not reached the mass; the
  # likeliest one always is, also if top_p rounds to nothing.
  before = jnp.pad(mass[:, :-1], ((0, 0), (1, 0)))
  least = jnp.min(
    jnp.where(before < top_p, falling, jnp.inf), axis=1, keepdims=True
  )
  return jnp.where(probs >= least, logits, -jnp.inf)
