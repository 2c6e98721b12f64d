"""Stimulation: a base hears a prompt and nothing else; its neurons are read.

    input     prompt rows, then one sentinel <extra_id_0>
    read at   the MLPs of the decoder, first target position (start token)
    before    wi x              wi_0 x in a gated MLP, ahead of its activation
    after     act(wi x)         act(wi_0 x) * (wi_1 x) there: the input of wo

Where a ReLU follows, before > 0 and after > 0 are the same neurons; in a
gated MLP they are not, as a negative gate can meet a negative half.
Source: Su et al. 2022, section 5.1, and its released code.
Departures: positions that only pad are left out, to the same effect.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.inserts.record import Record, recorded
from prompt_jax.tasks import features
from prompt_jax.transfer.base import Base
from prompt_jax.transfer.shelf import Shelf

_LAST_BYTE = 258  # 255 behind the ids 0, 1, 2 of ByT5


@dataclasses.dataclass(frozen=True)
class Where:
  """Where neurons are read.

  Args:
    stack: 'decoder' or 'encoder'.
    position: of that stack; the encoder's has the prompt first. Negative ones
      count from the end: -1 is the sentinel. The decoder has one, 0.
  """

  stack: str = 'decoder'
  position: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
  """What prompts activate.

  Attributes:
    names: of the prompts.
    before, after: float32[S,L,F], ahead of the activation and behind it.
  """

  names: tuple[str, ...]
  before: np.ndarray
  after: np.ndarray


def sentinel(base: Base) -> int:
  """The id of <extra_id_0>: the last of 100 behind the pieces, or byte 255.

  Source: Raffel et al. 2020, section 3.1.4; Xue et al. 2022 (ByT5), section
    3.1: the last bytes stand for sentinels.
  """
  if base.vocabulary == 'bytes':
    return min(_LAST_BYTE, base.config.vocab_size - 1)
  pieces = sentencepiece.SentencePieceProcessor()
  pieces.LoadFromSerializedProto(features.vocabulary_bytes(base.vocabulary))
  return pieces.get_piece_size() + features.EXTRA_IDS - 1


def recorder(model) -> Callable:
  """Builds `(flat, tokens int32[S,T], task_ids int32[S]) -> {site: array}`."""

  def run(flat, tokens, task_ids):
    variables = {'params': params.unflatten(flat)}
    heard = functools.partial(model.apply, variables, mutable=['record'])
    encoded, state = heard(tokens, task_ids, method='encode')
    start = jnp.zeros((len(tokens), 1), jnp.int32)
    _, more = heard(encoded, start, start + 1, task_ids, method='decode')
    return {**recorded(state), **recorded(more)}

  return run


def record(
  base: Base,
  shelf: Shelf,
  where: Where | None = None,
  allow_other_base: bool = False,
  token: int | None = None,
) -> Heard:
  """Reads what every prompt of a shelf activates.

  Args:
    base: that the prompts belong to.
    shelf: the prompts.
    where: stack and position; None is the decoder's first.
    allow_other_base: accept prompts of another base.
    token: that stands behind the prompt; None is `sentinel`.
  Returns: Heard.
  Raises: UserError for prompts that do not fit, or a stack without layers or
    without that position.
  """
  where = where or Where()
  before = 'wi_0' if base.config.is_gated else 'wi'
  probes = [
    (f'{where.stack}/layers_\\d+/mlp/{name}', Record)
    for name in (before, 'hidden')
  ]
  _check_layers(base, where)
  model, flat = base.prompted(shelf, probes, allow_other_base)
  token = sentinel(base) if token is None else token
  tokens = jnp.full((len(shelf), 1), token, jnp.int32)
  ids = jnp.arange(len(shelf), dtype=jnp.int32)
  found = jax.device_get(jax.jit(recorder(model))(flat, tokens, ids))
  _check_position(next(iter(found.values())).shape[1], where)

  def stacked(site):
    layers = _layers(base, where.stack)
    each = [f'{where.stack}/layers_{n}/mlp/{site}' for n in range(layers)]
    rows = [np.asarray(found[path])[:, where.position] for path in each]
    return np.stack(rows, axis=1).astype(np.float32)  # [S,L,F]

  return Heard(shelf.names, stacked(before), stacked('hidden'))


def _layers(base: Base, stack: str) -> int:
  return getattr(base.config, f'num_{stack}_layers')


def _check_layers(base: Base, where: Where) -> None:
  """Raises unless the stack has layers."""
  if not _layers(base, where.stack):
    raise UserError(
      f'The base {base.name} has no layers in its {where.stack}; expected a '
      'stack whose neurons can be read. Give --stack=decoder.'
    )


def _check_position(count: int, where: Where) -> None:
  """Raises unless the stack has the position."""
  if not -count <= where.position < count:
    raise UserError(
      f'Position {where.position} of the {where.stack} was asked for; expected '
      f'one from {-count} to {count - 1}: it hears {count} positions. Correct '
      '--position.'
    )


def save(path: str | os.PathLike, heard: Heard) -> None:
  """Writes {'<task>/before', '<task>/after'} to an .npz file, float32[L,F]."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {}
  for i, name in enumerate(heard.names):
    arrays |= {f'{name}/before': heard.before[i]}
    arrays |= {f'{name}/after': heard.after[i]}
  np.savez(path, **arrays)
