"""Beam search over a model seen through its `Step` (see `decode.py`).

Two sets of K sequences per example are kept apart: live ones, by log
probability, and finished ones, by log probability over a penalty on brevity.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.t5.decode import Cache, Step, expand_rows, require_counts

# T5X's log probability of a sequence that is none: an empty place in a set.
# Finite, because 0 * -inf would be NaN; float32 still orders sums with it.
NOTHING = -1e7


def beam_search(
  step: Step,
  cache: Cache,
  batch_size: int,
  max_length: int,
  *,
  num_beams: int = 1,
  alpha: float = 0.6,
  eos_id: int = 1,
  start_id: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Keeps the num_beams best prefixes at every step.

  score = log_prob / ((5 + length) / 6) ^ alpha, length with EOS

  Every step takes the 2K best continuations: at most K of them end in EOS and
  join the finished set, so K remain to go on. The search stops at max_length,
  or when in no example a live sequence could still enter the finished set.
  One beam is not greedy decoding: the search goes on past a first EOS and may
  find a longer sequence of better score. An example without any finished
  sequence gets its live ones, with plain log probabilities.

  Args (static under jit, but for the cache):
    step: one decoding step of the model.
    cache: leaves with axes have B rows; expanded to B * num_beams here, and
      rows are gathered anew after every step.
    batch_size: B.
    max_length: U, most tokens of an output, EOS included.
    num_beams: K.
    alpha: exponent of the penalty on brevity, at least 0, which compares
      plain log probabilities.
    eos_id, start_id: what ends a sequence, what is fed to the first step.
  Returns: tokens int32[B,K,U] and scores float32[B,K], ascending: the best is
    at index -1. A place left empty has -1e7, or -1e7 over the penalty.
  Raises: UserError if a count is below 1 or alpha below 0; ValueError if a
    leaf of the cache has not B rows.
  Source: T5X beam_search; Wu et al. 2016, equation 14, for the penalty.
  Departures: no forced target prefix.
  """
  require_counts(
    batch_size=batch_size, max_length=max_length, num_beams=num_beams
  )
  if not alpha >= 0:
    raise UserError(
      f'alpha is {alpha!r}; expected a number of at least 0 in beam search. '
      'Below 0 the score would favour short sequences twice and the search '
      'could stop too early. Set 0.6 (the default of T5X) or 0.'
    )
  # T5X counts the start token here, so the bound that ends the search is a
  # little looser than max_length asks for.
  ceiling = _penalty(max_length + 1, alpha)
  end = jax.lax.while_loop(
    lambda state: (state.index < max_length) & _can_improve(state, ceiling),
    lambda state: _advance(state, step, alpha, eos_id),
    _begin(cache, batch_size, max_length, num_beams, start_id),
  )
  has_finished = jnp.any(end.is_finished, axis=1)  # [B]
  tokens = jnp.where(has_finished[:, None, None], end.finished, end.live)
  scores = jnp.where(has_finished[:, None], end.scores, end.log_probs)
  return tokens[:, :, 1:], scores


class _Search(NamedTuple):
  """What the search carries; both sets are in ascending order."""

  index: jax.Array  # int32[], tokens after the start token
  live: jax.Array  # int32[B,K,U+1], with the start token
  log_probs: jax.Array  # float32[B,K], of the live
  finished: jax.Array  # int32[B,K,U+1]
  scores: jax.Array  # float32[B,K], of the finished
  is_finished: jax.Array  # bool[B,K], false where the place is empty
  cache: Cache  # rows [B*K,...]


def _begin(cache, batch_size, max_length, num_beams, start_id):
  sequences = jnp.zeros((batch_size, num_beams, max_length + 1), jnp.int32)
  nothing = jnp.full((batch_size, num_beams), NOTHING, jnp.float32)
  return _Search(
    index=jnp.int32(0),
    live=sequences.at[:, :, 0].set(start_id),
    # One beam only, or all would grow the same sequences.
    log_probs=nothing.at[:, -1].set(0),
    finished=sequences,
    scores=nothing,
    is_finished=jnp.zeros((batch_size, num_beams), bool),
    cache=expand_rows(cache, batch_size, num_beams),
  )


def _penalty(length, alpha):
  return jnp.power((5.0 + length) / 6.0, alpha)


def _can_improve(state, ceiling):
  """Whether some example could still gain a finished sequence."""
  # A longer sequence has no larger log probability and no penalty above the
  # ceiling, so no live sequence can end with a score above this.
  hope = state.log_probs[:, -1] / ceiling  # [B]
  worst = jnp.where(
    jnp.all(state.is_finished, axis=1), jnp.min(state.scores, axis=1), NOTHING
  )
  is_settled = jnp.all(worst > hope)
  is_extinct = jnp.all(hope < NOTHING / ceiling)  # only empty places live
  return ~is_settled & ~is_extinct


def _advance(state, step, alpha, eos_id):
  """One step: 2K continuations, parted into live and finished."""
  batch_size, num_beams = state.log_probs.shape
  token = jax.lax.dynamic_index_in_dim(state.live, state.index, axis=2)
  logits, cache = step(token.reshape(-1, 1), state.cache)  # [B*K,V]
  vocab_size = logits.shape[1]
  grown = jax.nn.log_softmax(logits).reshape(batch_size, num_beams, vocab_size)
  grown = (grown + state.log_probs[:, :, None]).reshape(batch_size, -1)
  # [B,2K] from here on; `parent` is the beam a continuation grows from.
  log_probs, flat = jax.lax.top_k(grown, 2 * num_beams)
  parent, token = flat // vocab_size, flat % vocab_size
  sequences = jax.lax.dynamic_update_slice(
    _pick(state.live, parent), token[:, :, None], (0, 0, state.index + 1)
  )
  is_over = token == eos_id
  return state._replace(
    index=state.index + 1,
    **_go_on(sequences, log_probs, is_over, parent, cache),
    **_finish(
      state,
      sequences,
      log_probs / _penalty(state.index + 1, alpha),
      is_over,
    ),
  )


def _go_on(sequences, log_probs, is_over, parent, cache):
  """The live set: the K best continuations that have not ended."""
  num_beams = log_probs.shape[1] // 2
  log_probs = log_probs + jnp.where(is_over, NOTHING, 0)
  best = _ascending_top(log_probs, num_beams)
  return dict(
    live=_pick(sequences, best),
    log_probs=_pick(log_probs, best),
    cache=_pick_rows(cache, _pick(parent, best)),
  )


def _finish(state, sequences, scores, is_over):
  """The finished set: the K best of those kept and those just ended."""
  num_beams = state.scores.shape[1]
  scores = scores + jnp.where(is_over, 0, NOTHING)
  join = lambda old, new: jnp.concatenate([old, new], axis=1)  # [B,3K,...]
  scores = join(state.scores, scores)
  best = _ascending_top(scores, num_beams)
  return dict(
    finished=_pick(join(state.finished, sequences), best),
    scores=_pick(scores, best),
    is_finished=_pick(join(state.is_finished, is_over), best),
  )


def _ascending_top(values, count):
  """Places of the `count` largest values of each row, the largest last."""
  return jnp.flip(jax.lax.top_k(values, count)[1], axis=1)


def _pick(leaf, places):
  """leaf [B,K,...], places [B,J] -> out[b,j] = leaf[b, places[b,j]]."""
  # Mapped over examples, not over flat rows: a batch that is sharded over
  # devices is then gathered without moving rows between them.
  return jax.vmap(lambda row, place: row[place])(leaf, places)


def _pick_rows(cache, places):
  """Reorders the rows [B*K,...] of a cache within each example."""
  batch_size, num_beams = places.shape
  if num_beams == 1:  # each row can only follow itself
    return cache

  def pick(leaf):
    if leaf.ndim == 0:
      return leaf
    beams = leaf.reshape(batch_size, num_beams, *leaf.shape[1:])
    return _pick(beams, places).reshape(leaf.shape)

  return jax.tree.map(pick, cache)
