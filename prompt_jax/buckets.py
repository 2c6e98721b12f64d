"""Buckets: batches of examples of like length, in one of a few shapes.

A window is WINDOW batches of the plain order. Its examples are sorted by
bucket, cut into batches, and the batches shuffled; so every example is seen
as often as before, at most a window away from where it was.
"""

import collections
from collections.abc import Mapping, Sequence
import itertools

import numpy as np

from prompt_jax import batches
from prompt_jax.errors import UserError

AUTO = 'auto'
WINDOW = 64  # batches; fewer cut more of them across two buckets
MOST = 4  # shapes of 'auto': each is compiled once
_MULTIPLE = 8  # tokens; vector units work on as many numbers at once
_LEAST = 16  # tokens; below it prompt and decoder are most of a step
_WORTH = 0.05  # of all positions: what one more shape has to save


def check(given, longest: int) -> None:
  """Raises UserError unless LENGTH_BUCKETS can be used.

  Args:
    given: None, 'auto' or ascending lengths in tokens.
    longest: input length of TASK_FEATURE_LENGTHS, the last of them.
  """
  if given is None or isinstance(given, str) and given == AUTO:
    return
  listed = list(given) if isinstance(given, list | tuple) else []
  whole = all(type(x) is int and x > 0 for x in listed)
  if not listed or not whole or listed != sorted(set(listed)):
    raise UserError(
      f"LENGTH_BUCKETS is {given!r}; expected 'auto', None or ascending input "
      f'lengths in tokens, such as {[*range(16, longest, 32), longest][-3:]}. '
      'Use --gin.LENGTH_BUCKETS="\'auto\'".'
    )
  if listed[-1] != longest:
    raise UserError(
      f'LENGTH_BUCKETS ends with {listed[-1]}, but TASK_FEATURE_LENGTHS gives '
      f'inputs {longest} tokens; expected the two to agree, so that the '
      f'longest example has a bucket. End the list with {longest}.'
    )


def shares(
  sizes: Mapping[str, np.ndarray], rates: Mapping[str, float], longest: int
) -> np.ndarray:
  """float[longest + 1]: the share of examples of each length.

  Args:
    sizes: {task: int[n], tokens of its examples}.
    rates: {task: share of the examples that are its}.
  """
  return sum(
    rate * np.bincount(sizes[task], minlength=longest + 1) / len(sizes[task])
    for task, rate in rates.items()
  )


def chosen(share: np.ndarray, most: int = MOST) -> tuple[int, ...]:
  """The lengths that leave the fewest padded positions.

  min over e_1 < ... < e_k of sum_l share[l] e(l), e(l) the smallest >= l

  Args:
    share: float[T + 1], the share of examples that are l tokens long.
    most: of k; fewer where one more saves less than a twentieth.
  Returns: multiples of 8 from 16 on, or T itself; the last holds all.
  """
  longest = int(np.flatnonzero(share)[-1])
  last = max(-(-longest // _MULTIPLE) * _MULTIPLE, _LEAST)
  edges = np.arange(_LEAST, last + 1, _MULTIPLE).clip(max=len(share) - 1)
  edges = np.unique(edges)
  held = np.cumsum(share)[edges] / np.sum(share)
  cost, before = held * edges, []
  best, found = cost[-1], (int(edges[-1]),)
  for _ in range(1, min(most, len(edges))):
    # cost of the last bucket j when the one before it is i < j
    each = cost[:, None] + (held[None, :] - held[:, None]) * edges[None, :]
    each[np.tril_indices(len(edges))] = np.inf
    before.append(each.argmin(axis=0))
    cost = each.min(axis=0)
    if not cost[-1] < best * (1 - _WORTH):
      break
    best, places = cost[-1], [len(edges) - 1]
    for back in reversed(before):
      places.insert(0, int(back[places[0]]))
    found = tuple(int(edges[i]) for i in places)
  return found


def fit(edges: Sequence[int], longest: int) -> int:
  """The smallest bucket that holds an example of so many tokens."""
  return int(edges[np.searchsorted(edges, longest)])


class Windows:
  """The batches of the bucketed order; any step can be asked for at once.

  A window is cut where a task begins a new epoch and examples change places
  within a part only, so that each is seen exactly once an epoch, as before.

  Args:
    seed: of the shuffle of a window's batches.
    batch_size: B.
    mixing: which task each example is of.
    orders: of the examples of each task.
    sizes: int[n] for each task, tokens of its inputs.
    edges: the buckets, ascending.
  """

  def __init__(
    self,
    seed: int,
    batch_size: int,
    mixing: batches.Mixing,
    orders: Sequence[batches.Order],
    sizes: Sequence[np.ndarray],
    edges: Sequence[int],
  ):
    self._seed, self._size, self._mixing = seed, batch_size, mixing
    self._orders, self._sizes, self._edges = orders, sizes, list(edges)
    self._kept: collections.OrderedDict = collections.OrderedDict()

  def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(task ids int[B], examples of those tasks int[B], length) of a step."""
    window, within = divmod(step, WINDOW)
    if window not in self._kept:
      self._kept[window] = self._made(window)
      while len(self._kept) > 2:
        self._kept.popitem(last=False)
    ids, rows, lengths = self._kept[window]
    return ids[within], rows[within], int(lengths[within])

  def lengths(self, start: int, end: int) -> list[int]:
    """The length of every batch of some steps."""
    return [self.batch(step)[2] for step in range(start, end)]

  def mean_length(self, steps: int) -> float:
    """Mean length of the first batches."""
    return float(np.mean(self.lengths(0, steps)))

  def _made(self, window: int):
    """(ids [W,B], rows [W,B], lengths [W]) of one window."""
    size, start = self._size, window * WINDOW * self._size
    ids, places = self._mixing.locate(start, WINDOW * size)
    rows, tokens = np.empty_like(places), np.empty_like(places)
    epochs = np.empty_like(places)
    for task in np.unique(ids):
      here = np.flatnonzero(ids == task)
      order = self._orders[task]
      rows[here] = order.examples(places[here])
      tokens[here] = self._sizes[task][rows[here]]
      epochs[here] = places[here] // order.n
    buckets = np.searchsorted(self._edges, tokens)
    order = np.arange(WINDOW * size)
    drawn = batches.draws(self._seed, batches.BUCKETS, 0, window, WINDOW)
    for first, end in itertools.pairwise(_parts(ids, epochs, size)):
      if end - first == 1:  # it may end one epoch and begin the next
        continue
      part = slice(first * size, end * size)
      # stable: within a bucket the plain order, mixed as it is, stays
      by_bucket = order[part][np.argsort(buckets[part], kind='stable')]
      turns = np.argsort(drawn[first:end], kind='stable')
      order[part] = by_bucket.reshape(-1, size)[turns].ravel()
    shape = (WINDOW, size)
    longest = buckets[order].reshape(shape).max(axis=1)
    lengths = np.asarray(self._edges)[longest]
    return ids[order].reshape(shape), rows[order].reshape(shape), lengths


def _parts(ids: np.ndarray, epochs: np.ndarray, size: int) -> list[int]:
  """Batches at which a window is cut, from 0 to WINDOW.

  Batches from one cut to the next hold no two epochs of any task, but for a
  batch that stands alone and cannot do else.
  """
  cuts, seen = [0], {}
  for number in range(len(ids) // size):
    here = slice(number * size, (number + 1) * size)
    now = set(zip(ids[here].tolist(), epochs[here].tolist(), strict=True))
    tasks = {task for task, _ in now}
    fits = len(tasks) == len(now) and all(
      seen.get(task, epoch) == epoch for task, epoch in now
    )
    if not fits and number > cuts[-1]:
      cuts.append(number)
      seen = {}
    seen.update(now)
    if len(tasks) < len(now):  # two epochs in one batch: it stands alone
      cuts.append(number + 1)
      seen = {}
  end = len(ids) // size
  return cuts if cuts[-1] == end else [*cuts, end]
