"""Batches: tokenised examples, the order they come in, the arrays they fill.

Pure NumPy. Everything random is a function of a seed and a place, through
Philox (Salmon et al. 2011), a counter-based generator: any place can be asked
for at once, so a run resumes at any step without replaying the ones before.
Only raw 64-bit draws are used: NumPy promises to keep those the same in all
its versions, and does not for `Generator.permutation`.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import hashlib
import threading
import zlib

import numpy as np

from prompt_jax.errors import UserError

EOS = 1  # T5's vocabularies: 0 = padding, 1 = end of sequence
# one stream of random numbers for each purpose
ORDER, MIX, SHOTS, BUCKETS = 1, 2, 3, 4
BLOCK = 4096  # draws of one key; resuming costs one key a block passed


def draws(seed: int, stream: int, task: int, part: int, n: int) -> np.ndarray:
  """n raw random numbers of one place.

  Philox4x64, key (seed, stream), counter from (0, 0, task, part)

  Args:
    seed: of the run.
    stream: ORDER, MIX, SHOTS or BUCKETS.
    task, part: which numbers of the stream (part: epoch or block).
    n: how many.
  Returns: uint64[n].
  Source: Salmon et al. 2011, section 3.
  """
  mask = (1 << 64) - 1
  key = np.array([seed & mask, stream], np.uint64)
  counter = np.array([0, 0, task, part], np.uint64)
  return np.random.Philox(key=key, counter=counter).random_raw(n)


def stable_hash(name: str) -> int:
  """A number for a task name, so that its order ignores the other tasks."""
  return zlib.crc32(name.encode())


class Ragged:
  """Token sequences of different lengths: values int32[sum], starts int64[n+1].

  sequence i = values[starts[i]:starts[i + 1]]
  """

  def __init__(self, values: np.ndarray, starts: np.ndarray):
    self.values = np.ascontiguousarray(values, np.int32)
    self.starts = np.ascontiguousarray(starts, np.int64)

  @classmethod
  def of(cls, sequences: Iterable) -> 'Ragged':
    """From any sequences of token ids."""
    rows = [np.asarray(row, np.int32) for row in sequences]
    lengths = [len(row) for row in rows]
    values = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return cls(values, np.cumsum([0] + lengths))

  def __len__(self) -> int:
    return len(self.starts) - 1

  def __getitem__(self, i: int) -> np.ndarray:
    return self.values[self.starts[i] : self.starts[i + 1]]

  def sizes(self, chosen: np.ndarray | None = None) -> np.ndarray:
    """int64[n]: tokens of each sequence, or of the chosen ones."""
    if chosen is None:
      return np.diff(self.starts)
    return self.starts[np.asarray(chosen) + 1] - self.starts[chosen]

  def take(self, chosen) -> 'Ragged':
    """The sequences of the given indices, in the order given."""
    return Ragged.of(self[i] for i in chosen)

  def cut(self, length: int) -> tuple['Ragged', int]:
    """No sequence longer than `length` tokens; a final EOS survives the cut.

    Args:
      length: tokens, at least one.
    Returns: (the sequences, how many were cut).
    Departures: SeqIO's own trimming drops the EOS of a long example, so the
      model would be taught that long targets never end.
    """
    sizes = self.sizes()
    long = np.flatnonzero(sizes > length)
    if not len(long):
      return self, 0
    within = np.arange(len(self.values)) - np.repeat(self.starts[:-1], sizes)
    values = self.values.copy()
    last = values[self.starts[long + 1] - 1]
    edge = self.starts[long] + length - 1
    values[edge] = np.where(last == EOS, EOS, values[edge])
    starts = np.concatenate([[0], np.cumsum(np.minimum(sizes, length))])
    return Ragged(values[within < length], starts), len(long)

  def pad(self, chosen: np.ndarray, length: int) -> np.ndarray:
    """int32[len(chosen), length]: those sequences, zeros behind them."""
    begin, end = self.starts[chosen], self.starts[np.asarray(chosen) + 1]
    place = begin[:, None] + np.arange(length)  # [B,T]
    real = place < end[:, None]
    padded = np.zeros(place.shape, np.int32)
    padded[real] = self.values[place[real]]
    return padded

  def digest(self) -> str:
    """Hex digest; equal iff all sequences are."""
    total = hashlib.sha256(self.starts.tobytes())
    total.update(self.values.tobytes())
    return total.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Tokens:
  """The tokenised examples of one task: sequences of inputs and targets."""

  inputs: Ragged
  targets: Ragged

  def __len__(self) -> int:
    return len(self.inputs)

  def take(self, chosen) -> 'Tokens':
    """The examples of the given indices."""
    return Tokens(self.inputs.take(chosen), self.targets.take(chosen))


class Order:
  """The order of one task's n examples: a new permutation each epoch.

  example(k) = permutation(seed, task, epoch = k // n)[k % n]

  Every example appears once in an epoch, and the k-th follows from k alone.
  """

  def __init__(self, seed: int, task: str, n: int):
    self.seed, self.task, self.n = seed, stable_hash(task), n
    self._kept: collections.OrderedDict = collections.OrderedDict()

  def permutation(self, epoch: int) -> np.ndarray:
    """int64[n]: the examples in the order of one epoch."""
    if epoch not in self._kept:
      raw = draws(self.seed, ORDER, self.task, epoch, self.n)
      self._kept[epoch] = np.argsort(raw, kind='stable')
      while len(self._kept) > 2:  # a batch seldom spans more than two epochs
        self._kept.popitem(last=False)
    return self._kept[epoch]

  def examples(self, places: np.ndarray) -> np.ndarray:
    """int64[B]: the examples at places k of the endless order."""
    epochs, within = np.divmod(places, self.n)
    chosen = np.empty(len(places), np.int64)
    for epoch in np.unique(epochs):
      here = epochs == epoch
      chosen[here] = self.permutation(int(epoch))[within[here]]
    return chosen


class Mixing:
  """Which task each example of the endless mixed order comes from.

  task(i) ~ rates, independently; place(i) = number of j < i with
  task(j) = task(i)

  Draws are keyed by (seed, i // BLOCK). The place of an example needs the
  counts of the blocks before it; they are counted once and kept (7,800
  blocks, under a second, at step 1,000,000 with 32 examples a batch).
  """

  def __init__(self, seed: int, rates):
    rates = np.asarray(rates, np.float64)
    self.seed = seed
    self.rates = rates / rates.sum()
    self._edges = np.cumsum(self.rates)
    self._before = [np.zeros(len(rates), np.int64)]
    self._last = (-1, np.zeros(0, np.int64))

  def _block(self, block: int) -> np.ndarray:
    """int64[BLOCK]: the tasks of one block."""
    if self._last[0] != block:
      raw = draws(self.seed, MIX, 0, block, BLOCK)
      share = (raw >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
      tasks = np.searchsorted(self._edges, share, side='right')
      # the last edge may be a rounding error below 1, and a share above it
      last = np.flatnonzero(self.rates)[-1]
      self._last = (block, np.minimum(tasks, last))
    return self._last[1]

  def before(self, index: int) -> np.ndarray:
    """int64[M]: how many of the first `index` examples are each task's."""
    tasks = len(self.rates)
    if tasks == 1:
      return np.array([index], np.int64)
    block, rest = divmod(index, BLOCK)
    while len(self._before) <= block:
      counts = np.bincount(self._block(len(self._before) - 1), minlength=tasks)
      self._before.append(self._before[-1] + counts)
    if not rest:
      return self._before[block].copy()
    inside = np.bincount(self._block(block)[:rest], minlength=tasks)
    return self._before[block] + inside

  def locate(self, start: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(tasks int64[n], places int64[n]) of examples start .. start + n - 1."""
    if len(self.rates) == 1:
      return np.zeros(n, np.int64), np.arange(start, start + n)
    first, last = start // BLOCK, (start + n - 1) // BLOCK
    drawn = [self._block(block) for block in range(first, last + 1)]
    offset = start - first * BLOCK
    tasks = np.concatenate(drawn)[offset : offset + n]
    places, before = np.empty(n, np.int64), self.before(start)
    for task in np.unique(tasks):
      here = np.flatnonzero(tasks == task)
      places[here] = before[task] + np.arange(len(here))
    return tasks, places


def few_shot(classes, k: int, seed: int, task: str) -> list[int]:
  """k examples of every class, chosen by seed and task name alone.

  Args:
    classes: the class of each example, any hashable value.
    k: examples a class.
    seed: of the choice; independent of the data order.
    task: its name, for the stream and the error.
  Returns: the chosen indices, ascending.
  Raises: UserError if a class has fewer than k examples.
  Source: Razdaibiedina et al. 2023 (Residual Prompt Tuning) train on k a
    class. Departures: each example has a rank that does not depend on k, so a
    larger k only adds examples.
  """
  members = collections.defaultdict(list)
  for i, each in enumerate(classes):
    members[each].append(i)
  small = min(members, key=lambda each: len(members[each]))
  if len(members[small]) < k:
    raise UserError(
      f'shots={k} asks for {k} examples of each class, but the class '
      f'{small!r} of task {task!r} has {len(members[small])}. Use a smaller '
      'shots, or None for all examples.'
    )
  rank = draws(seed, SHOTS, stable_hash(task), 0, len(classes))
  chosen = []
  for each in members.values():
    chosen += sorted(each, key=lambda i: rank[i])[:k]
  return sorted(chosen)


def assemble(inputs, targets, task_ids) -> dict[str, np.ndarray]:
  """The arrays of a batch.

  decoder input = 0, then the targets without the last; weight = target > 0

  Args:
    inputs: int32[B,T].
    targets: int32[B,U].
    task_ids: int[B].
  Returns: the batch: encoder_input_tokens [B,T], decoder_input_tokens,
    decoder_target_tokens, decoder_loss_weights [B,U], task_ids [B].
  Source: Raffel et al. 2020, section 3.1.2 (teacher forcing).
  """
  shifted = np.zeros_like(targets)
  shifted[:, 1:] = targets[:, :-1]
  return {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': shifted,
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets > 0).astype(np.float32),
    'task_ids': np.asarray(task_ids, np.int32),
  }


def fill(batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
  """The batch with rows of weight zero behind, `rows` in all.

  The added inputs are a lone EOS: a row without a single real token would
  make a masked maximum over it infinite, and infinity times weight 0 is NaN.
  """
  extra = rows - len(batch['task_ids'])
  filled = {}
  for name, array in batch.items():
    more = np.zeros((extra, *array.shape[1:]), array.dtype)
    if name == 'encoder_input_tokens':
      more[:, 0] = EOS
    filled[name] = np.concatenate([array, more])
  return filled


def rows(batch, process_index: int, process_count: int) -> dict:
  """The contiguous rows of a global batch that one host holds.

  rows [i B / C, (i + 1) B / C) for host i of C

  Args:
    batch: {name: array[B, ...]}.
    process_index, process_count: which host of how many.
  Returns: {name: array[B / C, ...]}.
  Raises: UserError if B is not divisible by the number of hosts.
  """
  size = len(next(iter(batch.values())))
  if size % process_count:
    raise UserError(
      f'A batch of {size} examples cannot be parted evenly among '
      f'{process_count} hosts; expected a multiple of {process_count}. Set '
      f'BATCH_SIZE={size + process_count - size % process_count}.'
    )
  part = size // process_count
  here = slice(process_index * part, (process_index + 1) * part)
  return {name: array[here] for name, array in batch.items()}


def prefetch(iterator: Iterable, n: int = 2) -> Iterator:
  """The same items in the same order, up to n made ahead in a thread.

  Args:
    iterator: where items come from; used by the one thread only.
    n: how many may wait.
  Returns: a generator. An exception of the iterator is raised where its item
    would have come; closing the generator (or dropping it) ends the thread.
  """
  waiting: collections.deque = collections.deque()
  state = {'closed': False, 'end': None}
  change = threading.Condition()

  def produce():
    end: BaseException = StopIteration()
    try:
      for item in iterator:
        with change:
          waiting.append(item)
          change.notify_all()
          change.wait_for(lambda: state['closed'] or len(waiting) < n)
          if state['closed']:
            return
    except BaseException as error:  # raised again in the consumer's thread
      end = error
    finally:
      with change:
        state['end'] = end
        change.notify_all()

  thread = threading.Thread(target=produce, name='prefetch', daemon=True)
  thread.start()
  try:
    while True:
      with change:
        change.wait_for(lambda: waiting or state['end'] is not None)
        if not waiting:
          break
        item = waiting.popleft()
        change.notify_all()
      yield item
    if not isinstance(state['end'], StopIteration):
      raise state['end']
  finally:
    with change:
      state['closed'] = True
      change.notify_all()
    thread.join()
