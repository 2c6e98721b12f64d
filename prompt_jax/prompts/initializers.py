"""Initial values of a prompt: closures `(rng, (P, H)) -> float32[P,H]`.

Files and embedding tables are read when the prompt is initialised, not when
the closure is made: a resumed run needs none of them.
Source: Lester et al. 2021, section 3.2, and its released code.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved

# Those that read saved prompts, or whose fallback does, name them as `files`.
Initializer = Callable[[Any, tuple[int, int]], jax.Array]
Embeddings = Callable[[], Any] | np.ndarray | jax.Array  # gives [V,H]
Encode = Callable[[str], Sequence[int]]

_HOW = ('average', 'concatenate')


def random_uniform(low: float = 0.0, high: float = 0.5) -> Initializer:
  """Each number drawn from U[low, high).

  Raises: UserError unless low < high.
  Source: released code of Lester et al. 2021: U[0, 0.5).
  Departures: none from the code; the paper has U[-0.5, 0.5).
  """
  if not low < high:
    raise UserError(
      f'random_uniform got low={low}, high={high}; expected low < high, as '
      'in low=0.0, high=0.5.'
    )
  return lambda rng, shape: jax.random.uniform(
    rng, shape, jnp.float32, low, high
  )


def uniform_released() -> Initializer:
  """U[0, 0.5): what the released code of Lester et al. 2021 draws."""
  return random_uniform(0.0, 0.5)


def uniform_paper() -> Initializer:
  """U[-0.5, 0.5): what the paper says, section 3.2."""
  return random_uniform(-0.5, 0.5)


def from_sampled_vocab(
  embeddings: Embeddings, population: int | None = None
) -> Initializer:
  """Embeddings of P pieces, drawn from the most common without replacement.

      out[i] = embeddings[row_i],  row_i < population

  SentencePiece numbers the pieces of T5's vocabulary by frequency, so that
  the most common ones are the first ones.

  Args:
    embeddings: [V,H], or a callable that gives it.
    population: pieces to draw from (5,000 in the paper); None is all V. More
      than V is V, with a warning; fewer than P are drawn with replacement,
      with a warning.
  Raises: UserError if population < 1; when run, if the widths differ.
  Source: Lester et al. 2021, section 3.2. Departures: none.
  """
  if population is not None and population < 1:
    raise UserError(
      f'from_sampled_vocab got population={population}; expected at least 1, '
      'or None for the whole vocabulary. The paper draws from 5000.'
    )

  def init(rng, shape):
    table = _table(embeddings, shape[1])
    size = len(table) if population is None else population
    if size > len(table):
      warnings.warn(
        f'population={size} is more than the {len(table)} embeddings there '
        'are: drawing from all of them.',
        stacklevel=2,
      )
      size = len(table)
    replace = shape[0] > size
    if replace:
      warnings.warn(
        f'A prompt of {shape[0]} positions is longer than the population of '
        f'{size}: drawing with replacement.',
        stacklevel=2,
      )
    rows = jax.random.choice(rng, size, (shape[0],), replace)
    # only the rows that may be drawn: a traced draw keeps them as a constant
    pieces = jnp.asarray(np.asarray(table[:size], np.float32))
    return jnp.take(pieces, rows, axis=0)

  return init


def from_class_labels(
  embeddings: Embeddings,
  encode: Encode,
  labels: Sequence[str],
  fallback: Initializer | None = None,
) -> Initializer:
  """One position per label: the mean of the embeddings of its pieces.

      out[i] = mean_k embeddings[encode(labels[i])_k]     i < len(labels)
      out[i] = fallback(rng, (P, H))[i]                   after them

  Args:
    embeddings: [V,H], or a callable that gives it.
    encode: str -> ids, without BOS and EOS.
    labels: the words of the classes, in the order of the positions.
    fallback: fills the positions after the labels; None is
      `uniform_released`. The paper's is `from_sampled_vocab`.
  Raises: UserError if there are no labels; when run, if they are more than P,
    one encodes to nothing or beyond V, or the widths differ.
  Source: Lester et al. 2021, section 3.2.
  Departures: the released code drops labels past P with a warning, and its
    own fallback is U[0, 0.01) where its prompts begin at U[0, 0.5).
  """
  if isinstance(labels, str) or not labels:
    raise UserError(
      f'from_class_labels got labels={labels!r}; expected a list of strings, '
      "e.g. ['positive', 'negative']."
    )

  def init(rng, shape):
    if len(labels) > shape[0]:
      raise UserError(_too_long(f'{len(labels)} labels', len(labels), shape))
    table = _table(embeddings, shape[1])
    # outside any trace: one compiled with the rest may round otherwise
    with jax.ensure_compile_time_eval():
      rows = [
        jnp.mean(_pieces(table, encode, label), axis=0) for label in labels
      ]
      rows = jnp.stack(rows)
    return _over(fallback, rng, shape, rows)

  return _reading(init, *_files(fallback))


def from_string(
  embeddings: Embeddings,
  encode: Encode,
  text: str,
  fallback: Initializer | None = None,
) -> Initializer:
  """One position per piece of a text: its embedding.

      out[i] = embeddings[encode(text)_i]         i < number of pieces
      out[i] = fallback(rng, (P, H))[i]           after them

  Args:
    embeddings: [V,H], or a callable that gives it.
    encode: str -> ids, without BOS and EOS.
    text: e.g. an instruction.
    fallback: fills the positions after the text; None is `uniform_released`.
  Raises: UserError, when run, if the text has more than P pieces, encodes to
    nothing or beyond V, or the widths differ.
  Source: released code of Lester et al. 2021.
  Departures: it cuts a text longer than P with a warning; fallback as in
    `from_class_labels`.
  """

  def init(rng, shape):
    rows = _pieces(_table(embeddings, shape[1]), encode, text)
    if len(rows) > shape[0]:
      got = f'a text of {len(rows)} pieces'
      raise UserError(_too_long(got, len(rows), shape))
    return _over(fallback, rng, shape, rows)

  return _reading(init, *_files(fallback))


def from_file(path: str | os.PathLike) -> Initializer:
  """A saved prompt, as it is.

  Raises: UserError, when run, if it cannot be read or is not [P,H].
  Source: Vu et al. 2022 (SPoT), section 2. Departures: none.
  """
  read = lambda rng, shape: jnp.asarray(saved.load(path, shape)[0])
  return _reading(read, path)


def from_files(
  paths: Sequence[str | os.PathLike], how: str = 'average'
) -> Initializer:
  """Several saved prompts made into one.

      average:      out = mean_k prompt_k                each [P,H]
      concatenate:  out = concat(prompt_0, prompt_1 ..)  together [P,H]

  Args:
    paths: saved prompts, see `saved.load`.
    how: 'average' or 'concatenate'.
  Raises: UserError if there are no paths or `how` is unknown; when run, if a
    prompt cannot be read or does not fit.
  Departures: none; the released code starts from one prompt only.
  """
  if isinstance(paths, str) or not paths:
    raise UserError(
      f'from_files got paths={paths!r}; expected a list of saved prompts. '
      'One prompt is read by from_file.'
    )
  if how not in _HOW:
    raise UserError(
      f'from_files got how={how!r}; expected one of {_HOW}. Nearest: '
      f'{params.nearest(how, _HOW, 1)[0]!r}.'
    )

  def average(rng, shape):
    prompts = [saved.load(path, shape)[0] for path in paths]
    return jnp.asarray(np.mean(prompts, axis=0, dtype=np.float32))

  def concatenate(rng, shape):
    prompts = [saved.load(path, (None, shape[1]))[0] for path in paths]
    lengths = [len(prompt) for prompt in prompts]
    if sum(lengths) != shape[0]:
      raise UserError(
        f'The prompts {[str(path) for path in paths]} are {lengths} positions '
        f'long, {sum(lengths)} together; expected {shape[0]}. Set '
        f'PROMPT_LENGTH={sum(lengths)}.'
      )
    return jnp.asarray(np.concatenate(prompts))

  return _reading(average if how == 'average' else concatenate, *paths)


def from_array(array: Any) -> Initializer:
  """An array [P,H] at hand, as it is.

  Raises: UserError, when run, if its shape is not [P,H].
  """

  def init(rng, shape):
    if np.shape(array) != tuple(shape):
      raise UserError(
        f'from_array holds an array {list(np.shape(array))}; expected '
        f'{list(shape)}, the length and width of the prompt. Set '
        'PROMPT_LENGTH to its length; its width has to be that of the model.'
      )
    return jnp.asarray(array, jnp.float32)

  return init


def embedding_file(path: str | os.PathLike) -> Callable[[], np.ndarray]:
  """Embeddings [V,H] of an .npy file, mapped from disk when they are used."""
  return lambda: saved.read_array(path)


def checkpoint_embedding(
  path: str, key: str = 'token_embedder/embedding'
) -> Callable[[], np.ndarray]:
  """Embeddings [V,H] of a checkpoint; no other weight of it is read.

  Args:
    path: a checkpoint of any layout that `t5.pretrained` reads.
    key: slash path of the table.
  """

  def read():
    # the readers of checkpoints are slow to import and rarely needed here
    from prompt_jax.t5 import pretrained

    return pretrained.read(path, [key])[key]

  return read


def _files(init: Initializer | None) -> tuple:
  """The saved prompts that an initial value reads."""
  return tuple(getattr(init, 'files', ()))


def _reading(init: Initializer, *files) -> Initializer:
  """The initial value, which says what it reads."""
  init.files = files
  return init


def _table(embeddings, width):
  """The table [V,H] of `embeddings`, of the width asked for."""
  table = embeddings() if callable(embeddings) else embeddings
  if table.ndim != 2 or table.shape[1] != width:
    raise UserError(
      f'The embeddings to initialise from are {list(table.shape)}; expected '
      f'[V, {width}], as wide as the prompt, which has {width}. Take the '
      'embeddings of the base that the prompt is for.'
    )
  return table


def _pieces(table, encode, text):
  """Embeddings float32[k,H] of the k pieces of a text."""
  ids = np.asarray(encode(text), np.int64)
  if not len(ids):
    raise UserError(
      f'The text {text!r} encodes to no piece at all; expected at least one, '
      'to take its embedding. Leave it out or choose another word.'
    )
  if ids.max() >= len(table):
    raise UserError(
      f'The text {text!r} encodes to id {ids.max()}; expected ids below '
      f'{len(table)}, the rows of the embeddings. Vocabulary and embeddings '
      'belong to different models.'
    )
  return jnp.asarray(np.asarray(table[ids], np.float32))


def _over(fallback, rng, shape, rows):
  """The fallback's [P,H], its first positions overwritten by `rows`.

  The fallback draws all P positions with the rng as it is, so that those that
  remain are the ones it gives on its own.
  """
  fill = (fallback or uniform_released())(rng, shape)
  return jnp.asarray(fill, jnp.float32).at[: len(rows)].set(rows)


def _too_long(got, length, shape):
  """What to say of more rows than positions."""
  return (
    f'{got[0].upper()}{got[1:]} cannot start a prompt of {shape[0]} '
    f'positions; expected at most {shape[0]}. Set PROMPT_LENGTH={length} or '
    'more, or leave some out.'
  )
