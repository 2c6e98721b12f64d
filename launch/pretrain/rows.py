"""Batches of pretraining, each a function of (seed, step).

All rows of a batch are of one length bucket, and a batch of short rows has
more of them, so that every step costs about the same and little is padding.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import itertools

import numpy as np

from launch.pretrain import programmed
from prompt_jax import batches
from prompt_jax.errors import UserError

# (longest input, rows of a batch) of a bucket: about 3,000 positions of prompt
# and input.
BUCKETS = ((12, 96), (24, 68), (40, 50), (64, 36))
_SPANS = 40  # rows of a batch of span corruption, by the same measure
# Programs drawn for a text, of which the clearest is taken.
_CANDIDATES = 3
_BELOW = -2.0  # any product of two vectors of length one
_IDS = 8100  # of the shipped vocabulary: 8,000 pieces and 100 sentinels


@dataclasses.dataclass(eq=False)
class Rows:
  """The pretraining data, with the interface of `prompt_jax.data.Dataset`.

  The task ids 0 .. S - 2 are the labelled tasks, S - 1 is span corruption and
  S + m is program m.

  Args:
    file: of `launch.pretrain.mixture`.
    seed: of everything random.
    batch_scale: multiplies the rows of every bucket.
    span_share: of the steps that are span corruption.
    shares: of the rows of other steps: labelled, then the parts of the
      mixture; chosen by hand.
  Raises: UserError if there is no such file, if it has a row longer than any
    bucket, or other parts than `shares`.
  """

  file: str = programmed.FILE
  seed: int = 0
  batch_scale: float = 1.0
  span_share: float = 0.06  # as 4 rows of 68 in the earlier recipes
  shares: tuple[float, ...] = (0.4, 0.2, 0.1, 0.14, 0.06, 0.1)

  task_feature_lengths = {'inputs': BUCKETS[-1][0], 'targets': 2}
  tasks = ('pretrain',)
  num_examples = None  # drawn, not counted off
  steps_per_epoch = None
  vocab_size = _IDS

  def __post_init__(self):
    held = self._held = programmed.stored(self.file)
    self._learned = len(held['labelled_rate']) + 1
    self._check()
    self._rows, weights = self._weighted()
    self._split = len(held['labelled_row'])  # part rows come after these
    size = np.diff(held['offsets'])[self._rows]
    bounds = [0, *(longest for longest, _ in BUCKETS)]
    self._members = [
      np.flatnonzero((size > low) & (size <= high))
      for low, high in itertools.pairwise(bounds)
    ]
    mass = np.array([weights[own].sum() for own in self._members])
    self._cumulative = [
      np.cumsum(weights[own]) / weights[own].sum() for own in self._members
    ]
    # a step of many short rows counts for as many
    steps = mass / np.array([count for _, count in BUCKETS])
    self._bucket = np.cumsum(steps / steps.sum())
    order = np.argsort(held['program_part'], kind='stable')
    ends = np.cumsum(np.bincount(held['program_part']))
    self._programs = np.split(order, ends[:-1])

  def _check(self) -> None:
    held = self._held
    parts = int(held['part_of'].max()) + 1
    if len(self.shares) != 1 + parts:
      raise UserError(
        f'Rows.shares has {len(self.shares)} numbers; expected {1 + parts}: '
        f'labelled rows and the {parts} parts of {self.file}. Give one each.'
      )
    longest = int(np.diff(held['offsets']).max())
    if longest > BUCKETS[-1][0]:
      raise UserError(
        f'{self.file} has a text of {longest} pieces; expected at most '
        f'{BUCKETS[-1][0]}, the longest bucket of launch.pretrain.rows. Make '
        f'the mixture with --pieces {BUCKETS[-1][0]}.'
      )

  def _weighted(self) -> tuple[np.ndarray, np.ndarray]:
    """(row of each text int[n], how likely it is drawn float[n]).

    Labelled texts first, in the order of their arrays, then those of parts.
    """
    held = self._held
    rate = held['labelled_rate'] / held['labelled_rate'].sum()
    counts = np.bincount(held['labelled_task'], minlength=len(rate))
    rows = [held['labelled_row']]
    weights = [self.shares[0] * (rate / counts)[held['labelled_task']]]
    for number, share in enumerate(self.shares[1:]):
      own = held['part_row'][held['part_of'] == number]
      rows.append(own)
      weights.append(np.full(len(own), share / len(own)))
    return np.concatenate(rows), np.concatenate(weights)

  @property
  def batch_size(self) -> int:
    """Rows of a batch of middling length, which a run counts with."""
    return int(BUCKETS[1][1] * self.batch_scale)

  def fingerprint(self) -> str:
    """Hex digest of what decides the batches."""
    text = repr((self.seed, self.batch_scale, self.span_share, self.shares))
    digest = hashlib.sha256(text.encode())
    digest.update(self._held['values'].tobytes())
    digest.update(self._held['program_bank'].tobytes())
    return digest.hexdigest()[:16]

  def batches(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """All batches from a step on, without end."""
    for each in itertools.count(step):
      yield self.batch(each)

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """The batch of a step; see `batches.assemble` for what is in it."""
    rng = np.random.default_rng([self.seed, step])
    if rng.random() < self.span_share:
      return self._spans(rng)
    bucket = int(np.searchsorted(self._bucket, rng.random()))
    length, count = BUCKETS[bucket]
    count = int(count * self.batch_scale)
    at = np.searchsorted(self._cumulative[bucket], rng.random(count))
    chosen = self._members[bucket][at]
    labelled = chosen < self._split
    ids = np.zeros(count, np.int32)
    answer = np.zeros(count, np.int32)
    ids[labelled] = self._held['labelled_task'][chosen[labelled]]
    answer[labelled] = self._held['labelled_target'][chosen[labelled]]
    others = np.flatnonzero(~labelled)
    ids[others], answer[others] = self._answers(
      chosen[others] - self._split, rng
    )
    targets = np.stack([answer, np.full(count, batches.EOS, np.int32)], axis=1)
    return batches.assemble(self._inputs(chosen, length), targets, ids)

  def _inputs(self, chosen: np.ndarray, length: int) -> np.ndarray:
    """int32[B,length]: the chosen texts, zeros behind them."""
    inputs = np.zeros((len(chosen), length), np.int32)
    values, offsets = self._held['values'], self._held['offsets']
    for i, row in enumerate(self._rows[chosen]):
      text = values[offsets[row] : offsets[row + 1]]
      inputs[i, : len(text)] = text
    return inputs

  def _answers(self, at: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """A program for each text, and what it says.

    Of a few programs the one is taken whose answer is clearest: a text
    between two prototypes teaches little.

    Args:
      at: places among the texts of the parts, int[n].
      rng: of the programs.
    Returns: (task ids int[n], token ids int[n]).
    """
    held = self._held
    part, z = held['part_of'][at], held['z'][at].astype(np.float32)
    draws = np.array(
      [
        [self._programs[p][rng.integers(len(self._programs[p]))] for p in part]
        for _ in range(_CANDIDATES)
      ],
      np.int64,
    )  # [C,n]
    anchors = held['bank'][held['program_bank'][draws]].astype(np.float32)
    words = held['program_word'][draws]  # [C,n,P]
    scores = np.einsum('cnpd,nd->cnp', anchors, z)
    best = scores.argmax(axis=2)
    word = np.take_along_axis(words, best[..., None], axis=2)
    other = np.where(words == word, _BELOW, scores).max(axis=2)
    clear = (scores.max(axis=2) - other).argmax(axis=0)
    each = np.arange(len(at))
    return (
      draws[clear, each] + self._learned,
      held['answers'][word[clear, each, 0]],
    )

  def _spans(self, rng) -> dict[str, np.ndarray]:
    """A batch of span corruption."""
    rows = rng.integers(
      len(self._held['span_inputs']), size=int(_SPANS * self.batch_scale)
    )
    inputs = self._held['span_inputs'][rows].astype(np.int32)
    targets = self._held['span_targets'][rows].astype(np.int32)
    ids = np.full(len(rows), self._learned - 1, np.int32)
    return batches.assemble(inputs, targets, ids)
