"""What a model says: decoded targets, and scores of given targets.

Pure functions of (parameters, batch), to be compiled by who calls them. The
encoder runs once per example, whatever is decoded or ranked.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import jax.numpy as jnp

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5 import beam, decode
from prompt_jax.t5.t5 import Encoded

METHODS = ('greedy', 'sample', 'beam')


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How targets are decoded.

  Args:
    method: 'greedy', 'sample' or 'beam'.
    num_decodes: decodes per example (samples or beams).
    temperature, top_k, top_p: of 'sample', see `t5.decode.sample`.
    alpha: brevity penalty of 'beam' (0.6: T5X's default).
    seed: of 'sample'.
  """

  method: str = 'greedy'
  num_decodes: int = 1
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 0.0
  alpha: float = 0.6
  seed: int = 0

  def __post_init__(self):
    if self.method not in METHODS:
      raise UserError(
        f'Decoding.method is {self.method!r}; expected one of {METHODS}.'
      )


def encode(model, flat, batch) -> Encoded:
  """Encoded inputs of a batch, prompt included."""
  return model.apply(
    {'params': params.unflatten(flat)},
    batch['encoder_input_tokens'],
    batch['task_ids'],
    method='encode',
  )


def weights_of(model, flat, batch) -> jax.Array | None:
  """What each input's prompt of the encoder is mixed by.

  A source that mixes others has `names`, which call them, and sows `weights`.

  Args:
    model: a prompted model.
    flat: its parameters {path: array}.
    batch: 'encoder_input_tokens' int[B,T], 'task_ids' int[B].
  Returns: float32[B,S] in the order of the names, [B,S,P] where each position
    has its own; None if the source mixes nothing.
  """
  _, sown = model.apply(
    {'params': params.unflatten(flat)},
    batch['encoder_input_tokens'],
    batch['task_ids'],
    method='encode',
    mutable=['intermediates'],
  )
  parts = sown.get('intermediates', {}).get('encoder', {})
  return parts['prompt']['weights'][0] if parts else None


def _started(model, flat, batch, length: int, decodes: int):
  """(step, cache) of decoding over the encoded inputs of a batch."""
  variables = {'params': params.unflatten(flat)}
  encoded = encode(model, flat, batch)
  _, made = model.apply(
    *(variables, encoded, length, batch['task_ids'], decodes),
    method='start',
    mutable=['cache'],
  )

  def step(tokens, cache):
    logits, new = model.apply(
      *({**variables, 'cache': cache}, tokens, length, encoded),
      method='step',
      mutable=['cache'],
    )
    return logits, new['cache']

  return step, made['cache']


def decoder(model, length: int, decoding: Decoding = Decoding()) -> Callable:
  """Builds `(flat, batch) -> (tokens int32[B,n,U], log probs float32[B,n])`.

  Args:
    model: the linen model.
    length: U, most tokens of a target, EOS included.
    decoding: the method; the best decode stands last.
  """

  def run(flat: Mapping, batch: Mapping):
    step, cache = _started(model, flat, batch, length, decoding.num_decodes)
    rows = batch['encoder_input_tokens'].shape[0]
    if decoding.method == 'beam':
      return beam.beam_search(
        *(step, cache, rows, length),
        num_beams=decoding.num_decodes,
        alpha=decoding.alpha,
      )
    greedy = decoding.method == 'greedy'
    return decode.sample(
      *(step, cache, rows, length),
      rng=jax.random.key(decoding.seed),
      temperature=decoding.temperature,
      top_k=1 if greedy else decoding.top_k,
      top_p=0.0 if greedy else decoding.top_p,
      num_decodes=decoding.num_decodes,
    )

  return run


def ranker(model) -> Callable:
  """Builds `(flat, batch, labels int32[C,U] or [B,C,U]) -> float32[B,C]`.

  score[b,c] = sum_u log p(labels[c,u] | input b), padding (0) left out.
  What labels have in common is computed once an example: the encoder, the
  keys and values of cross attention and the logits of the first position,
  which all labels start from. The other logits are made position by
  position: [B C,V] of them are there at a time.
  Source: rank classification, T5X `score_batch`; Brown et al. 2020, 2.4.
  Departures: no normalisation by length.
  """

  def run(flat, batch, labels):
    variables = {'params': params.unflatten(flat)}
    ids, (choices, length) = batch['task_ids'], labels.shape[-2:]
    labels = jnp.broadcast_to(labels, (len(ids), choices, length))
    wanted = labels.reshape(-1, length)  # [B C,U]
    states = model.apply(
      variables,
      encode(model, flat, batch),
      jnp.pad(wanted[:, :-1], ((0, 0), (1, 0))),
      jnp.ones_like(wanted),  # padding follows what is scored, which is causal
      jnp.repeat(ids, choices),
      method='states',
    )

    def log_probs(states, tokens):
      """[R,H], int32[R,n] -> float32[R,n]."""
      logits = model.apply(variables, states[:, None], method='logits')[:, 0]
      chosen = jnp.take_along_axis(logits, tokens, axis=1)
      chosen -= jax.nn.logsumexp(logits, axis=1, keepdims=True)
      return jnp.where(tokens > 0, chosen, 0.0)

    scores = log_probs(states[::choices, 0], labels[:, :, 0])
    if length > 1:
      later = states[:, 1:].swapaxes(0, 1), wanted[:, 1:, None].swapaxes(0, 1)
      more = jax.lax.map(lambda pair: log_probs(*pair), later).sum(axis=0)
      scores += more.reshape(scores.shape)
    return scores

  return run


def scorer(model) -> Callable:
  """Builds `(flat, batch) -> float32[B]`, sum of log p(target)."""

  def run(flat, batch):
    logits = model.apply(
      {'params': params.unflatten(flat)},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      batch['task_ids'],
    )
    return decode.score(
      logits, batch['decoder_target_tokens'], batch['decoder_loss_weights']
    )

  return run
