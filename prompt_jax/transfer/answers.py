"""What a model answers to a batch: three ways to read it.

    first_token   argmax over the first tokens of the labels, at position 0
    rank          argmax over labels of log p(label)
    generate      greedy decoding

With the first two a prompt never has to say a task's words: a random one can
be far above 0.
Source: released code of Su et al. 2022 for the first; it is their score.
"""

from collections.abc import Callable, Sequence
import functools

import jax.numpy as jnp
import numpy as np

from prompt_jax import params, predict
from prompt_jax.errors import UserError
from prompt_jax.training.step import Program
from prompt_jax.typing import Array, Float, Int

HOW = ('first_token', 'rank', 'generate')
EOS = 1


def restricted_argmax(
  scores: Float[Array, 'B V'], tokens: Int[Array, ' C']
) -> Int[Array, ' B']:
  """argmax_c scores[b, tokens[c]]; other tokens do not matter.

  Returns: int[B], numbers of labels.
  Source: released code of Su et al. 2022.
  """
  return scores[:, jnp.asarray(tokens)].argmax(axis=1)


def first_step(model) -> Callable:
  """Builds `(flat, batch, tokens int32[C]) -> float32[B,C]`.

  Logits of the first target position, after the start token 0, at the tokens.
  """

  def run(flat, batch, tokens):
    encoded = predict.encode(model, flat, batch)
    start = jnp.zeros((encoded.mask.shape[0], 1), jnp.int32)
    logits = model.apply(
      {'params': params.unflatten(flat)},
      encoded,
      start,
      start + 1,  # any id above 0: the position is real
      batch['task_ids'],
      method='decode',
    )
    return logits[:, 0][:, tokens]

  return run


class _Encoded:
  """A model whose encoder has run: `encode` is what it made."""

  def __init__(self, model, encoded):
    self._model, self._encoded = model, encoded

  def apply(self, variables, *args, method: str, **more):
    if method == 'encode':
      return self._encoded
    return self._model.apply(variables, *args, method=method, **more)


def _over_encoded(build: Callable, model) -> Callable:
  """`build(model)`, which takes what is 'encoded' from a batch that has it."""

  def run(flat, batch, *rest):
    known = batch.get('encoded')
    read = model if known is None else _Encoded(model, known)
    return build(read)(flat, batch, *rest)

  return run


class Answerer:
  """Answers batches; compiles once a way and shape.

  Args:
    model: the linen model.
    encode, decode: text -> ids without EOS, ids -> text.
  """

  def __init__(self, model, encode: Callable, decode: Callable):
    self._encode, self._decode = encode, decode
    self._first = Program('the first step', _over_encoded(first_step, model))
    self._rank = Program('ranking', _over_encoded(predict.ranker, model))
    self._encoder = Program(
      'encoding', functools.partial(predict.encode, model)
    )
    self._decoders: dict[int, Program] = {}
    self._model = model

  def encoded(self, flat, batch):
    """A batch with its inputs encoded, for answers that differ behind that."""
    return {**batch, 'encoded': self._encoder(flat, batch)}

  def __call__(
    self, flat, batch, how: str, labels: Sequence[str] | None, length: int
  ) -> list[str]:
    """The answer to every row.

    Args:
      flat: parameters {path: array}.
      batch: 'encoder_input_tokens' [B,T] and 'task_ids' [B]; the encoder runs
        unless it comes from `encoded`.
      how: one of `HOW`.
      labels: target texts; not read by 'generate'.
      length: most tokens of a generated target, EOS included.
    Raises: UserError if two labels begin alike and only that is compared.
    """
    if how == 'generate':
      if length not in self._decoders:
        decoder = functools.partial(predict.decoder, length=length)
        run = _over_encoded(decoder, self._model)
        self._decoders[length] = Program(f'decoding {length} tokens', run)
      tokens, _ = self._decoders[length](flat, batch)
      return [self._text(row) for row in np.asarray(tokens)[:, -1].tolist()]
    rows = [[*self._encode(label), EOS] for label in labels]
    if how == 'rank':
      longest = max(map(len, rows))
      table = [row + [0] * (longest - len(row)) for row in rows]
      scores = self._rank(flat, batch, np.asarray(table, np.int32))
    else:
      first = first_tokens(labels, rows)
      scores = self._first(flat, batch, np.asarray(first, np.int32))
    return [labels[i] for i in np.asarray(scores).argmax(axis=1)]

  def _text(self, row) -> str:
    return self._decode(row[: row.index(EOS)] if EOS in row else row)


def first_tokens(labels: Sequence[str], rows: Sequence[Sequence[int]]):
  """The first token of each label.

  Args: labels: texts; rows: their token ids.
  Raises: UserError if two labels share it: it could not tell them apart.
  """
  seen: dict[int, str] = {}
  for label, row in zip(labels, rows, strict=True):
    if row[0] in seen:
      raise UserError(
        f'The labels {seen[row[0]]!r} and {label!r} begin with the same token '
        f'{row[0]}; expected labels whose first tokens differ, for only those '
        'are compared. Use --how=rank, which scores whole labels.'
      )
    seen[row[0]] = label
  return list(seen)
