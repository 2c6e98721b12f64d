"""Evaluation sets: the examples of one split, to be scored or decoded."""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import numpy as np

from prompt_jax import batches, buckets
from prompt_jax.t5.config import T5Config

# A shape is compiled once for a model; fewer batches are sooner done than it.
_BATCHES_A_SHAPE = 4
_MEMORY = 2**28  # bytes of a batch: little beside a base, and enough rows
_PROMPT = 100  # positions; Lester et al. 2021
_CHOICES = 4  # labels; most tasks have fewer
_ROWS = 8, 512  # more are no faster


def rows_in_memory(config: T5Config, lengths: Mapping[str, int]) -> int:
  """Rows of an evaluation batch whose temporaries take some 256 MiB.

  floats of a row = J (4 H + 2 F) + 2 N J^2     an encoder layer
                  + 2 C L J N K + 2 C V         caches, logits of C labels

  Args:
    config: shapes of the model.
    lengths: {'inputs': T, 'targets': U}; J = T and a prompt.
  Returns: a multiple of 8 from 8 to 512.
  """
  c, j = config, lengths['inputs'] + _PROMPT
  layer = j * (4 * c.d_model + 2 * c.d_ff) + 2 * c.num_heads * j * j
  caches = 2 * c.num_decoder_layers * j * c.num_heads * c.d_kv
  floats = layer + _CHOICES * (caches + 2 * c.vocab_size)
  least, most = _ROWS
  return min(max(_MEMORY // (4 * floats) // least * least, least), most)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationSet:
  """Examples of one split in file order, in batches of few shapes.

  Args:
    task, split: names.
    provider: the task itself: its vocabulary, metrics and what reads answers.
    tokens: tokenised examples, cut to length.
    lengths: {'inputs': T, 'targets': U} in tokens.
    inputs_pretokenized, targets_pretokenized: the texts, uncut.
    labels: closed list of target texts, or None.
    batch_size: rows of each batch.
    task_id: the task id of every row.
  """

  task: str
  split: str
  provider: Any
  tokens: batches.Tokens
  lengths: Mapping[str, int]
  inputs_pretokenized: list[str]
  targets_pretokenized: list[str]
  labels: list[str] | None
  batch_size: int
  task_id: int = 0

  def __len__(self) -> int:
    return len(self.tokens)

  def batches(self) -> Iterator[dict[str, np.ndarray]]:
    """Batches in file order; rows past the last example weigh nothing."""
    for start in range(0, len(self), self.batch_size):
      rows = np.arange(start, min(start + self.batch_size, len(self)))
      yield self._batch(rows, self.lengths['inputs'])

  def by_length(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(which examples, their batch), the shortest examples first.

    A batch is padded to the bucket of its longest example; there are as many
    buckets as are worth compiling for.
    """
    sizes = self.tokens.inputs.sizes()
    order = np.argsort(sizes, kind='stable')
    shares = np.bincount(sizes, minlength=self.lengths['inputs'] + 1)
    count = -(-len(self) // self.batch_size)
    most = min(max(count // _BATCHES_A_SHAPE, 1), buckets.MOST)
    edges = buckets.chosen(shares, most)
    for start in range(0, len(self), self.batch_size):
      rows = order[start : start + self.batch_size]
      yield rows, self._batch(rows, buckets.fit(edges, sizes[rows].max()))

  def _batch(self, rows, longest: int) -> dict[str, np.ndarray]:
    inputs = self.tokens.inputs.pad(rows, longest)
    targets = self.tokens.targets.pad(rows, self.lengths['targets'])
    ids = np.full(len(rows), self.task_id)
    batch = batches.assemble(inputs, targets, ids)
    return batches.fill(batch, self.batch_size)
