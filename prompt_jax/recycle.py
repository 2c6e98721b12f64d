"""Recycling: a prompt of one base made into one of another, without training.

    v2v-lin:   p' = p W,     W = argmin |E_s W - E_t|
    v2v-nn:    p' = f(p),    f = argmin |f(E_s) - E_t|, one hidden ReLU layer
    lin-comb:  p' = x E_t,   x = argmin |x E_s - p|

E_s [V,H_s] and E_t [V,H_t] are the embeddings of the same pieces in both
bases, which must share their vocabulary. Neither task data nor a pass through
a model is needed. With the shortest x (and W), which is taken where there are
several, v2v-lin and lin-comb are the same map p pinv(E_s) E_t: they differ in
rounding alone. A recycled prompt is best asked with EVAL_MODE='rank'.
Source: Lester et al. 2022, "Reducing Retraining by Recycling
Parameter-Efficient Prompts", and its released code.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

from prompt_jax import export, params
from prompt_jax.errors import UserError
from prompt_jax.prompts import attached, saved
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import features
from prompt_jax.typing import Array, Float

_TABLE = 'token_embedder/embedding'
# The released code's network: width in widths of the target, Adam's rate, rows
# of a step, passes.
_HIDDEN, _RATE, _BATCH, _EPOCHS = 4, 3e-4, 50, 25


class Pieces(NamedTuple):
  """The pieces of the vocabulary to fit on.

  Args:
    number: how many.
    offset: the first, most frequent pieces that are left out.
    words: file with JSON {id: word}, the pieces to choose from in this order;
      None is the whole vocabulary. The release has a list of 16,779 English
      words, filtered-vocab-english-only.json, that is not in this package.
  """

  number: int = 4000
  offset: int = 1000
  words: str | os.PathLike | None = None


RELEASED = Pieces()  # the numbers of the released code


def v2v_lin(
  source: Float[Array, 'V H'],
  target: Float[Array, 'V G'],
  prompt: Float[Array, 'P H'],
  seed: int = 0,
) -> tuple[np.ndarray, float]:
  """A linear map between the tables, applied to the prompt.

      p' = p W,  W = argmin |E_s W - E_t|, the smallest if there are several

  Args:
    source, target: embeddings of the same pieces, one a row.
    prompt: rows of the source's width.
    seed: not read.
  Returns: (float32[P,G], |E_s W - E_t| / |E_t|).
  Source: released code of Lester et al. 2022.
  Departures: by singular values in float64; the release solves the normal
    equations in float32.
  """
  del seed
  known, wanted = np.asarray(source, float), np.asarray(target, float)
  weights = np.linalg.lstsq(known, wanted, rcond=None)[0]  # [H,G]
  made = np.asarray(prompt, float) @ weights
  return made.astype(np.float32), _error(known @ weights, wanted)


def lin_comb(
  source: Float[Array, 'V H'],
  target: Float[Array, 'V G'],
  prompt: Float[Array, 'P H'],
  seed: int = 0,
) -> tuple[np.ndarray, float]:
  """Each row as a combination of source embeddings, then of the target's.

      p' = x E_t,  x = argmin |x E_s - p|, the smallest if there are several

  Args: as `v2v_lin`.
  Returns: (float32[P,G], |x E_s - p| / |p|).
  Source, Departures: as `v2v_lin`.
  """
  del seed
  known, rows = np.asarray(source, float), np.asarray(prompt, float)
  shares = np.linalg.lstsq(known.T, rows.T, rcond=None)[0].T  # [P,V]
  made = shares @ np.asarray(target, float)
  return made.astype(np.float32), _error(shares @ known, rows)


def v2v_nn(
  source: Float[Array, 'V H'],
  target: Float[Array, 'V G'],
  prompt: Float[Array, 'P H'],
  seed: int = 0,
  epochs: int = _EPOCHS,
  batch_size: int = _BATCH,
) -> tuple[np.ndarray, float]:
  """A network between the tables, applied to the prompt.

      f(x) = W_2 relu(W_1 x + b_1) + b_2, 4 G wide inside
      loss = 1/2 mean (f(E_s) - E_t)^2, Adam at 3e-4

  Args:
    source, target, prompt: as `v2v_lin`.
    seed: of the first weights and of the order of the rows.
    epochs: passes over the rows.
    batch_size: rows of a step; the last step of a pass may have fewer.
  Returns: (float32[P,G], |f(E_s) - E_t| / |E_t|).
  Source: released code of Lester et al. 2022. Departures: none.
  """
  source, target = np.asarray(source, 'f4'), np.asarray(target, 'f4')
  network = Network(_HIDDEN * target.shape[1], target.shape[1])
  weights = network.init(jax.random.key(seed), source[:1])
  optimizer = optax.adam(_RATE)

  def loss(weights, rows, wanted):
    return optax.l2_loss(network.apply(weights, rows), wanted).mean()

  @jax.jit
  def step(weights, moments, rows, wanted):
    gradient = jax.grad(loss)(weights, rows, wanted)
    updates, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(weights, updates), moments

  moments, rng = optimizer.init(weights), jax.random.key(seed)
  for _ in range(epochs):
    shuffle, rng = jax.random.split(rng)
    drawn = jax.random.uniform(shuffle, (len(source),))
    order = np.argsort(drawn, kind='stable')
    for start in range(0, len(order), batch_size):
      now = order[start : start + batch_size]
      weights, moments = step(weights, moments, source[now], target[now])
  run = lambda rows: np.asarray(network.apply(weights, rows))
  return run(np.asarray(prompt, 'f4')), _error(run(source), target)


class Network(nn.Module):
  """Two dense layers with a ReLU between them.

  Args: hidden, output: their widths.
  """

  hidden: int
  output: int

  @nn.compact
  def __call__(self, x: Float[Array, 'V H']) -> Float[Array, 'V G']:
    # named in the order they are made, which the first weights depend on
    inner = nn.relu(nn.Dense(self.hidden)(x))
    return nn.Dense(self.output)(inner)


RECYCLERS = {'v2v-nn': v2v_nn, 'v2v-lin': v2v_lin, 'lin-comb': lin_comb}


def write_recycled(
  prompt: str | os.PathLike,
  source: str,
  target: str,
  output: str | os.PathLike,
  *,
  how: str = 'v2v-nn',
  pieces: Pieces = RELEASED,
  seed: int = 0,
  allow_other_base: bool = False,
) -> list[str]:
  """Recycles a saved prompt and saves what becomes of it.

  Args:
    prompt: trained on `source`.
    source, target: bases, each a shipped name or a checkpoint.
    output: the .npy file to write; its sidecar has the digest of the target.
    how: one of RECYCLERS.
    pieces: what to fit on.
    seed: of 'v2v-nn'.
    allow_other_base: recycle a prompt that was trained on another base.
  Returns: one line on what was done, then the file written.
  Raises: UserError if a file cannot be read, the prompt is not of the source
    or is for several layers, or the vocabularies differ.
  """
  if how not in RECYCLERS:
    raise UserError(
      f'The recycling is {how!r}; expected one of {", ".join(RECYCLERS)}. '
      f'Nearest: {params.nearest(how, list(RECYCLERS), 1)[0]!r}.'
    )
  array, about = saved.load(prompt)
  if pathlib.Path(output).resolve() == pathlib.Path(prompt).resolve():
    raise UserError(
      f'{output} is the prompt that is read; expected a new name for what '
      'becomes of it. Give another --output.'
    )
  about = about or {}
  tables = _tables(source, target)
  _check_prompt(prompt, array, about, source, tables[0].shape[1])
  vocabulary = _vocabulary(prompt, about, source, target)
  ids = _chosen(pieces, len(tables[0]))
  if 'base_digest' in about and not allow_other_base:
    trained = {'base_digest': about['base_digest']}
    saved.check_base(trained, digest(source), '')
  made, error = RECYCLERS[how](tables[0][ids], tables[1][ids], array, seed)
  recycled = {
    'file': str(prompt),
    'base': pathlib.PurePath(source).name,
    'base_digest': about.get('base_digest'),
    'number': len(ids),
    'offset': pieces.offset,
    'words': None if pieces.words is None else str(pieces.words),
    'relative_error': error,
    'seed': seed,
  }
  sidecar = _sidecar(about, made, target, vocabulary)
  new = {'method': f'recycled, {how}', 'source': recycled}
  saved.save(output, made, {**sidecar, **new})
  said = f'{how} on {len(ids):,} pieces: relative error {error:.3f}'
  return [f'{said}, prompt {list(made.shape)}', str(output)]


def _sidecar(about, prompt, target: str, vocabulary: str | None) -> dict:
  """What any saved prompt says: where it belongs, and its size."""
  keys = ('stack', 'depth', *attached.WHERE, 'task')
  kept = {key: about[key] for key in keys if key in about}
  if vocabulary:
    kept['vocabulary_digest'] = vocabulary
  return {
    **kept,
    'base': pathlib.PurePath(target).name,
    'base_digest': digest(target),
    'length': prompt.shape[0],
    'width': prompt.shape[1],
    'mean_row_norm': float(np.linalg.norm(prompt, axis=1).mean()),
    'versions': export.versions(),
  }


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `prompt-jax recycle`."""
  add = parser.add_argument
  add('prompt', help='saved prompt, trained on the source')
  add('--source', required=True, help='base it was trained on')
  add('--target', required=True, help='base it is to be used with')
  add('--output', required=True, help='the .npy file to write')
  add('--method', choices=tuple(RECYCLERS), default='v2v-nn')
  number, offset, _ = RELEASED
  add('--num_words', type=int, default=number, help='pieces to fit on')
  add('--word_offset', type=int, default=offset, help='pieces before them')
  add('--words', metavar='FILE', help='JSON {id: word} to choose from')
  add('--random_seed', type=int, default=0, help='of v2v-nn')
  add(
    '--allow_other_base',
    action='store_true',
    help='recycle a prompt of another base than the source',
  )


def run(args: argparse.Namespace) -> list[str]:
  """`prompt-jax recycle`. Returns: what it prints."""
  return write_recycled(
    args.prompt,
    args.source,
    args.target,
    args.output,
    how=args.method,
    pieces=Pieces(args.num_words, args.word_offset, args.words),
    seed=args.random_seed,
    allow_other_base=args.allow_other_base,
  )


def digest(base: str) -> str:
  """The digest of a base as the sidecars of its prompts have it.

  Every weight is read, one at a time.
  """
  total = params.Digest()
  for path, array in pretrained.leaves(base, pretrained.inspect(base)[1]):
    total.update(path, array)
  return total.hex()


def _error(found, wanted) -> float:
  """|found - wanted| / |wanted|, of all numbers together."""
  size = np.linalg.norm(wanted) or 1.0  # all zero: the error itself
  return float(np.linalg.norm(found - wanted) / size)


def _check_prompt(path, prompt, sidecar, source, width) -> None:
  """Raises unless a prompt's rows stand where the source's embeddings do."""
  if prompt.shape[1] != width:
    raise UserError(
      f'{path} is a prompt {list(prompt.shape)}; expected '
      f'[{prompt.shape[0]}, {width}], as wide as the source {source}. Give '
      'the base it was trained on as --source.'
    )
  if sidecar.get('depth', 1) != 1:
    raise UserError(
      f'{path} is a prompt for {sidecar["depth"]} layers; expected one that '
      'stands in front of the first layer alone. Rows of deeper layers are '
      'no embeddings, so no map between the embeddings fits them.'
    )


def _tables(source: str, target: str) -> list[np.ndarray]:
  """The embeddings of both bases, of equally many pieces."""
  tables = [
    pretrained.read(base, [_TABLE])[_TABLE] for base in (source, target)
  ]
  rows = [len(table) for table in tables]
  if rows[0] != rows[1]:
    raise UserError(
      f'The vocabularies differ: {source} has {rows[0]} embeddings and '
      f'{target} {rows[1]}; expected two bases of one vocabulary, so that a '
      'row means the same piece in both. Take a target of the same family '
      '(T5 1.0 and 1.1 share theirs; mT5 and ByT5 have their own).'
    )
  return tables


def _vocabulary(prompt, sidecar, source: str, target: str) -> str | None:
  """The digest of the vocabulary; None where nothing tells.

  Known are that of the prompt's sidecar and the `spiece.model` of a base.
  """
  known = {prompt: sidecar.get('vocabulary_digest')}
  for base in (source, target):
    file = pathlib.Path(pretrained.resolve(base)) / 'spiece.model'
    if file.is_file():
      known[file] = features.vocabulary_digest(str(file))
  known = {where: value for where, value in known.items() if value}
  if len(set(known.values())) > 1:
    said = ', '.join(f'{value} ({where})' for where, value in known.items())
    raise UserError(
      f'The vocabularies differ: their digests are {said}; expected one and '
      'the same, so that a row means the same piece in both bases. Take a '
      'target that has the vocabulary of the source.'
    )
  return next(iter(known.values()), None)


def _chosen(pieces: Pieces, rows: int) -> Sequence[int]:
  """The ids to fit on."""
  number, offset, words = pieces
  ids, where = list(range(rows)), 'the vocabulary'
  if words is not None:
    ids, where = _word_ids(words, rows), str(words)
  if number < 1 or offset < 0:
    raise UserError(
      f'--num_words={number} after --word_offset={offset} are no pieces to '
      'fit on; expected at least 1, after 0 or more.'
    )
  if offset + number > len(ids):
    raise UserError(
      f'{number} pieces after the first {offset} were asked for; {where} has '
      f'{len(ids)}. Give a smaller --num_words and --word_offset, such as '
      f'--num_words={len(ids) - len(ids) // 5} --word_offset={len(ids) // 5}.'
    )
  return ids[offset : offset + number]


def _word_ids(path, rows: int) -> list[int]:
  """The ids of a file {id: word}, in its order."""
  try:
    found: Any = json.loads(pathlib.Path(path).read_bytes())
    ids = [int(key) for key in found.keys()]
  except (OSError, ValueError, AttributeError) as error:
    raise UserError(
      f'{path} cannot be read as a list of words: {error}. Expected a JSON '
      'object {id: word}, such as {"1465": "positive"}. Leave --words out to '
      'take the whole vocabulary.'
    ) from error
  beyond = [key for key in ids if not 0 <= key < rows]
  if beyond:
    raise UserError(
      f'{path} has the id {beyond[0]}; expected ids below {rows}, the rows of '
      'the embeddings. The list belongs to another vocabulary.'
    )
  return ids


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('recycle')
