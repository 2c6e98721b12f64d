"""`Programmed`: a prompt that is learned, or made from prototypes and words.

    task < S:   prompts[task]                                   learned [S,P,H]
    otherwise:  row_k = a_k W + E[word_k]       of the program numbered task - S

The rows of a program are what a soft prompt could have learned to be: a
direction to compare the text with, and a word to answer. There is a W for the
texts of the domains and one for pairs of words, whose space is another. W and
E train with the model and are thrown away afterwards.
"""

import functools
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from launch.pretrain import archive, domains
from prompt_jax.errors import UserError
from prompt_jax.typing import Array, Float

FILE = 'runs/pretrain/mixture.npz'
# The part whose features are of another space.
PAIRS = domains.PARTS.index(domains.PAIRS)
_FITTED = 20000  # texts of each space that a kernel is fitted to


@functools.cache
def stored(file: str = FILE) -> dict[str, np.ndarray]:
  """All arrays of `launch.pretrain.mixture`, read once.

  Raises: UserError if there is no such file.
  """
  return archive.load(file, 'mixture')


def _embeddings(file: str, width: int) -> pathlib.Path:
  """The table of `launch.pretrain.embeddings`, beside the mixture."""
  return pathlib.Path(file).with_name(f'embedding_{width}.npy')


@functools.cache
def started(file: str, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Where kernels W [2,D,H] and words E [W,H] start: near the embeddings.

      W = argmin |Z W - (mean embedding of each text - their mean)|^2,
      then divided by std(Z W)

  A word starts as its embedding, so that to copy a row is nearly to answer;
  with this W a prototype is alike to the tokens of its texts from the first
  step.

  Args:
    file: of `launch.pretrain.mixture`.
    width: H.
  """
  held = stored(file)
  table = np.load(_embeddings(file, width), allow_pickle=False)
  rng = np.random.default_rng(0)
  kernels = []
  for pairs in (False, True):
    own = np.flatnonzero((held['part_of'] == PAIRS) == pairs)
    own = rng.permutation(own)[:_FITTED]
    means = []
    for row in held['part_row'][own]:
      start, end = held['offsets'][row : row + 2]
      means.append(table[held['values'][start : end - 1]].mean(axis=0))
    means = np.array(means) - np.mean(means, axis=0)
    z = held['z'][own].astype(np.float32)
    kernel = np.linalg.lstsq(z, means, rcond=None)[0]
    kernels.append(kernel / (z @ kernel).std())
  return np.array(kernels, np.float32), table[held['answers']]


class Programmed(nn.Module):
  """The source of pretraining.

  Args:
    length: P, the prototypes of a task.
    file: of `launch.pretrain.mixture`, with embedding_<H>.npy beside it.
    start: .npz of prompts, kernels and words to start from, as written by
      `launch.pretrain.grow`; None starts from the embeddings.
  """

  length: int = 20
  file: str | os.PathLike = FILE
  start: str | None = None

  instance_wise = True  # thousands of tasks: nothing to export a file each
  num_tasks = 1

  def check(self, width: int) -> None:
    """Raises UserError if a file is missing or of another size.

    A run asks before it builds anything.
    """
    prototypes = stored(self.file)['program_bank'].shape[1]
    if prototypes != self.length:
      raise UserError(
        f'{self.file} has tasks of {prototypes} prototypes; expected '
        f'Programmed.length={self.length}, a row each. Set '
        f'--gin.programmed.Programmed.length={prototypes}, or make the mixture '
        f'with --prototypes {self.length}.'
      )
    if self.start is not None:
      archive.load(self.start, 'grow')
      return
    table = _embeddings(self.file, width)
    if not table.is_file():
      raise UserError(
        f'{table} is not there; expected the embeddings of a model of width '
        f'{width} beside {self.file}. Run `python -m '
        f'launch.pretrain.embeddings --width {width} --out {table}`.'
      )

  @nn.compact
  def __call__(self, task_ids, embeds, mask) -> Float[Array, 'B P H']:
    """Args: task_ids int[B]; embeds [B,T,H] for its width; mask unread."""
    del mask  # a text does not decide its prompt
    held, width = stored(self.file), embeds.shape[-1]
    learned = len(held['labelled_rate']) + 1  # the last: span corruption
    prompts = self._table(
      'prompts',
      ('tasks', 'prompt', 'prompt_embed'),
      (learned, self.length, width),
      nn.initializers.normal(1.0),  # as large as an embedding
    )
    kernels = self._table(
      'kernels',
      (None, None, 'prompt_embed'),
      (2, held['bank'].shape[1], width),
      lambda rng, shape: jnp.asarray(started(self.file, width)[0]),
    )
    words = self._table(
      'words',
      (None, 'prompt_embed'),
      (len(held['answers']), width),
      lambda rng, shape: jnp.asarray(started(self.file, width)[1]),
    )
    program = jnp.maximum(task_ids - learned, 0)
    of = lambda name: jnp.asarray(held[name])[program]
    anchors = jnp.asarray(held['bank'])[of('program_bank')]  # [B,P,D]
    kernel = kernels[(of('program_part') == PAIRS).astype(jnp.int32)]  # [B,D,H]
    made = jnp.einsum('bpd,bdh->bph', anchors.astype(jnp.float32), kernel)
    made += words[of('program_word')]
    own = prompts[jnp.minimum(task_ids, learned - 1)]
    return jnp.where((task_ids < learned)[:, None, None], own, made)

  def _table(self, name, axes, shape, init) -> jax.Array:
    if self.start is not None:
      held = archive.load(self.start, 'grow')[name]
      init = lambda rng, shape: jnp.asarray(held)
    return self.param(name, nn.with_logical_partitioning(init, axes), shape)
