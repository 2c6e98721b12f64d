"""A toy model to decode from, and what it should say.

It reads nothing but the history in its cache, and every example has a table
of its own there: a row that is expanded or reordered wrongly changes the
logits of every later step.
"""

import jax
import jax.numpy as jnp
import numpy as np

EOS = 1
FADE = 0.7  # weight of a token relative to the one after it


def tables(seed, batch_size, vocab_size, eos_bonus=0.0):
  table = np.random.default_rng(seed).normal(
    scale=1.5, size=(batch_size, vocab_size, vocab_size)
  )
  table[:, :, EOS] += eos_bonus
  return table.astype(np.float32)


def toy_cache(table, max_length):
  return {
    'position': jnp.int32(0),
    'decoder': {'history': jnp.zeros((len(table), max_length), jnp.int32)},
    'table': jnp.asarray(table),
  }


def toy_step(tokens, cache):
  """logits[r] = sum_j FADE^(position - j) table[r, history[r, j]]."""
  position = cache['position']
  history = jax.lax.dynamic_update_slice(
    cache['decoder']['history'], tokens, (0, position)
  )
  age = position - jnp.arange(history.shape[1])
  weight = jnp.where(age >= 0, FADE ** jnp.maximum(age, 0), 0)
  read = jax.vmap(lambda table, row: table[row])(cache['table'], history)
  logits = jnp.einsum('u,ruv->rv', weight, read)
  return logits, {
    'position': position + 1,
    'decoder': {'history': history},
    'table': cache['table'],
  }


def log_probs_after(table, prefix, start_id=0):
  """float[V] of one example, from its tokens alone."""
  history = (start_id, *prefix)
  logits = sum(
    FADE ** (len(prefix) - j) * table[token].astype(np.float64)
    for j, token in enumerate(history)
  )
  return logits - np.logaddexp.reduce(logits)


def log_prob_of(table, sequence, start_id=0):
  return sum(
    log_probs_after(table, sequence[:u], start_id)[token]
    for u, token in enumerate(sequence)
  )


def padded(sequence, max_length):
  return [*sequence, *[0] * (max_length - len(sequence))]


def constant_step(logits):
  return lambda tokens, cache: (
    jnp.tile(jnp.asarray(logits, jnp.float32), (len(tokens), 1)),
    cache,
  )


def counting(step, seen):
  """The same step; writes down the position of every one that really runs."""

  def counted(tokens, cache):
    jax.debug.callback(lambda at: seen.append(int(at)), cache['position'])
    return step(tokens, cache)

  return counted
