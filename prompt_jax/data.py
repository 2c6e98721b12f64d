"""Data: SeqIO tasks and mixtures as batches that depend on (seed, step) alone.

Every task is tokenised once, through SeqIO, into memory. Which example stands
where is then arithmetic (see batches.py), so a run continues at any step with
the very batches it would have had. Tasks too large for that are streamed, in
sequence, with an explicit `seek`.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import math
from typing import Any

import numpy as np

from prompt_jax import batches, buckets
from prompt_jax.errors import UserError
from prompt_jax.evaluation_set import EvaluationSet
from prompt_jax.startup import STARTUP
from prompt_jax.tasks import examples, local, rates
from prompt_jax.tasks.examples import FEATURES

_COUNTED = 4 * buckets.WINDOW  # steps that tell which shapes are frequent


@dataclasses.dataclass(eq=False)
class Dataset:
  """Training batches of one or several tasks.

  Args:
    mixture_or_task_name: a name or a list of names of SeqIO tasks, mixtures
      and shipped tasks; a FileTask may stand for a name.
    task_feature_lengths: {'inputs': T, 'targets': U} in tokens.
    split: which split of every task.
    batch_size: examples of a batch over all hosts.
    seed: of the order and the mixing, nothing else.
    use_cached: read SeqIO's offline cache.
    shots: k examples of each class, a class being a distinct target; None:
      all examples. The indices chosen are in `chosen`.
    shots_seed: of that choice, nothing else.
    rates: {name: rate} for each name listed, or for each task of a single
      mixture; None: a mixture's own rates, else numbers of examples.
    module: imported first.
    vocabulary: for FileTasks and shipped tasks that are registered here.
    max_in_memory: a task with more examples, or of unknown size, is streamed.
    length_buckets: input lengths in tokens, the last that of
      task_feature_lengths; each batch is padded to one of them and holds
      examples of like length (where none is streamed). 'auto': at most four,
      from the lengths there are. None: one shape.
  """

  mixture_or_task_name: Any
  task_feature_lengths: Mapping[str, int]
  split: str = 'train'
  batch_size: int = 32
  seed: int = 0
  use_cached: bool = False
  shots: int | None = None
  shots_seed: int = 0
  rates: Mapping[str, float] | None = None
  module: str | None = None
  vocabulary: str = 'shipped'
  max_in_memory: int = 2_000_000
  length_buckets: Sequence[int] | str | None = None

  def __post_init__(self):
    examples.check_lengths(self.task_feature_lengths)
    buckets.check(self.length_buckets, self.task_feature_lengths['inputs'])
    counts = {'batch_size': self.batch_size}
    if self.shots is not None:
      counts['shots'] = self.shots
    for name, value in counts.items():
      if not isinstance(value, int) or value < 1:
        raise UserError(
          f'{name} is {value!r}; expected a whole number, at least 1. Set '
          f'{name.upper()}.'
        )
    if not isinstance(self.seed, int) or not isinstance(self.shots_seed, int):
      raise UserError(
        f'seed is {self.seed!r} and shots_seed {self.shots_seed!r}; expected '
        'whole numbers, or no run could be repeated. Set RANDOM_SEED.'
      )

  @functools.cached_property
  def _listed(self) -> dict[str, Any]:
    """{name as listed: seqio.Task or seqio.Mixture}."""
    names = self.mixture_or_task_name
    names = list(names) if isinstance(names, list | tuple) else [names]
    of = lambda name: examples.provider(name, self.vocabulary, self.module)
    made = [of(name) for name in names]
    if len({type(each) for each in made}) > 1:
      made = [of(name) for name in names]  # one of them imported SeqIO
    listed = {}
    for found in made:
      if found.name in listed:
        raise UserError(
          f'{found.name!r} is listed twice; expected distinct names. Say how '
          'often a task is seen with rates.'
        )
      listed[found.name] = found
    if not listed:
      raise UserError(
        'mixture_or_task_name is empty; expected a name or a list of names. '
        'Set MIXTURE_OR_TASK_NAME.'
      )
    return listed

  @functools.cached_property
  def providers(self) -> dict[str, Any]:
    """{task name: seqio.Task} in the order of the task ids."""
    tasks = {}
    for each in self._listed.values():
      members = each.tasks if examples.is_mixture(each) else [each]
      tasks.update({task.name: task for task in members})
    first, *others = tasks.values()
    for task in others:
      if task.output_features != first.output_features:
        raise UserError(
          f'Tasks {first.name!r} and {task.name!r} have different features or '
          'vocabularies; expected one for all tasks of a run. Register them '
          'with the same vocabulary.'
        )
    return tasks

  @property
  def tasks(self) -> tuple[str, ...]:
    """Task names; a task id is an index into them."""
    return tuple(self.providers)

  @property
  def vocab_size(self) -> int:
    """Ids that the tasks' largest vocabulary has, sentinels included."""
    tasks = self.providers.values()
    features = [f for t in tasks for f in t.output_features.values()]
    return max(feature.vocabulary.vocab_size for feature in features)

  def _size(self, task) -> int | None:
    """Examples before preprocessing, where SeqIO knows."""
    if examples.cached(task, self.use_cached):
      return task.get_cached_stats(self.split)['examples']
    return task.num_input_examples(self.split)

  @functools.cached_property
  def _loaded(self):
    """({name: Tokens in memory}, {name: Stream}, {name: chosen indices})."""
    with STARTUP.phase('data'):
      return self._load()

  def _load(self):
    tokens, streams, chosen = {}, {}, {}
    where = (self.split, self.task_feature_lengths, self.use_cached)
    for name, task in self.providers.items():
      examples.check_split(task, self.split)
      size = self._size(task)
      if size is None or size > self.max_in_memory:
        if self.shots:
          raise UserError(
            f'shots={self.shots} needs task {name!r} in memory, but it has '
            f'{size or "an unknown number of"} examples (max_in_memory is '
            f'{self.max_in_memory}). Raise max_in_memory or drop shots.'
          )
        streams[name] = examples.Stream(task, *where, self.seed)
        continue
      tokens[name], texts = examples.load(task, *where, texts=bool(self.shots))
      if self.shots:
        chosen[name] = batches.few_shot(
          texts['targets'], self.shots, self.shots_seed, name
        )
        tokens[name] = tokens[name].take(chosen[name])
    return tokens, streams, chosen

  @property
  def chosen(self) -> dict[str, list[int]]:
    """{task: indices of its few-shot examples in file order}."""
    return self._loaded[2]

  def _count(self, name: str) -> int | None:
    tokens = self._loaded[0].get(name)
    return self._size(self.providers[name]) if tokens is None else len(tokens)

  @functools.cached_property
  def _rates(self) -> dict[str, float]:
    """{task name: share}, in the order of the task ids."""
    return rates.of_tasks(self._listed, self.providers, self.rates, self._count)

  @functools.cached_property
  def _mixing(self) -> batches.Mixing:
    return batches.Mixing(self.seed, list(self._rates.values()))

  @functools.cached_property
  def _orders(self) -> dict[str, batches.Order]:
    return {
      name: batches.Order(self.seed, name, len(tokens))
      for name, tokens in self._loaded[0].items()
    }

  @property
  def num_examples(self) -> int | None:
    """Examples of an epoch, after shots; None if a task's size is unknown."""
    counts = [self._count(name) for name in self.tasks]
    return None if None in counts else sum(counts)

  @property
  def steps_per_epoch(self) -> int | None:
    """ceil(examples / batch size); None if the number is unknown."""
    n = self.num_examples
    return None if n is None else math.ceil(n / self.batch_size)

  @functools.cached_property
  def lengths(self) -> dict[str, tuple[int, ...]]:
    """{'inputs', 'targets'}: the lengths a batch may have, in tokens.

    With buckets, targets have the length of the longest that is in memory.
    """
    whole = {name: (self.task_feature_lengths[name],) for name in FEATURES}
    tokens, streams, _ = self._loaded
    if self.length_buckets is None:
      return whole
    if streams:
      auto = self.length_buckets == buckets.AUTO
      return whole if auto else {**whole, 'inputs': (*self.length_buckets,)}
    longest = max(int(t.targets.sizes().max()) for t in tokens.values())
    if self.length_buckets != buckets.AUTO:
      return {'inputs': (*self.length_buckets,), 'targets': (longest,)}
    sizes = {name: tokens[name].inputs.sizes() for name in self.tasks}
    shares = buckets.shares(sizes, self._rates, whole['inputs'][0])
    return {'inputs': buckets.chosen(shares), 'targets': (longest,)}

  @functools.cached_property
  def _windows(self) -> buckets.Windows | None:
    """The bucketed order; None where the plain order stays."""
    (tokens, streams, _), edges = self._loaded, self.lengths['inputs']
    if streams or len(edges) == 1:
      return None
    return buckets.Windows(
      *(self.seed, self.batch_size, self._mixing),
      [self._orders[name] for name in self.tasks],
      [tokens[name].inputs.sizes() for name in self.tasks],
      edges,
    )

  def shapes(self, start: int, end: int) -> dict[int, int]:
    """{input length: batches}, the most frequent first.

    Of the steps from `start` to `end` the first are counted, with streams
    none. Every length that a batch may have is there.
    """
    if self.length_buckets is None:  # asked for before the data is read
      return {self.task_feature_lengths['inputs']: end - start}
    counts = collections.Counter(dict.fromkeys(self.lengths['inputs'], 0))
    if self._windows:
      counts.update(self._windows.lengths(start, min(end, start + _COUNTED)))
    return dict(counts.most_common())

  @property
  def padding_share(self) -> dict[str, float]:
    """{'inputs', 'targets'}: share of an epoch's positions that is padding."""
    held = [*self._loaded[0].values()]
    rows = sum(map(len, held))
    lengths = {name: self.lengths[name][-1] for name in FEATURES}
    if self._windows and rows:
      lengths['inputs'] = self._windows.mean_length(self.steps_per_epoch)
    real = lambda name: sum(len(getattr(t, name).values) for t in held)
    return {
      name: 1 - real(name) / (rows * length) if rows else 0.0
      for name, length in lengths.items()
    }

  def fingerprint(self) -> str:
    """Hex digest of all tokens and of all that decides their order.

    Streamed tasks count by name only. Equal fingerprints: equal batches.
    """
    settings = {
      'lengths': dict(sorted(self.task_feature_lengths.items())),
      'split': self.split,
      'batch_size': self.batch_size,
      'seed': self.seed,
      'rates': list(self._rates.items()),
      'tokens': {
        name: [tokens.inputs.digest(), tokens.targets.digest()]
        for name, tokens in self._loaded[0].items()
      },
    }
    if self.length_buckets is not None:
      settings['buckets'] = self.lengths
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def seek(self, step: int) -> None:
    """Makes `step` the next batch of streamed tasks; no cost in memory."""
    if self._loaded[1]:
      before = self._mixing.before(step * self.batch_size)
      for task, place in zip(self.tasks, before, strict=True):
        if task in self._loaded[1]:
          self._loaded[1][task].seek(int(place))
    self._next_step = step

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """The batch of a step; depends on the settings and the step alone.

    Args:
      step: from 0. With streamed tasks: the step after the last one, or the
        one that `seek` was given.
    Returns: the batch, see `batches.assemble`; all rows of all hosts.
    Raises: ValueError if a streamed task would have to jump.
    """
    tokens, streams, _ = self._loaded
    if streams and step != getattr(self, '_next_step', None):
      raise ValueError(
        f'batch({step}) would jump in the streamed tasks {sorted(streams)}; '
        f'expected seek({step}) first.'
      )
    if self._windows:
      ids, rows, length = self._windows.batch(step)
    else:
      ids, places = self._mixing.locate(step * self.batch_size, self.batch_size)
    parts = []  # [(where in the batch, tokens, which of them)]
    for task in np.unique(ids):
      here = np.flatnonzero(ids == task)
      name = self.tasks[task]
      if self._windows:
        parts.append((here, tokens[name], rows[here]))
      elif name in tokens:
        which = self._orders[name].examples(places[here])
        parts.append((here, tokens[name], which))
      else:
        part = streams[name].take(len(here))
        parts.append((here, part, np.arange(len(here))))
    if not self._windows:
      longest = max(t.inputs.sizes(which).max() for _, t, which in parts)
      length = buckets.fit(self.lengths['inputs'], longest)
    self._next_step = step + 1
    lengths = {'inputs': length, 'targets': self.lengths['targets'][-1]}
    filled = {}
    for name, each in lengths.items():
      filled[name] = np.zeros((len(ids), each), np.int32)
      for here, part, which in parts:
        filled[name][here] = getattr(part, name).pad(which, each)
    return batches.assemble(filled['inputs'], filled['targets'], ids)

  def batches(self, step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """All batches from a step on, without end."""
    self.seek(step)
    for each in itertools.count(step):
      yield self.batch(each)


def evaluation(
  task,
  split: str = 'validation',
  task_feature_lengths: Mapping[str, int] | None = None,
  batch_size: int = 32,
  task_id: int = 0,
  use_cached: bool = False,
  module: str | None = None,
  vocabulary: str = 'shipped',
  max_examples: int | None = None,
) -> EvaluationSet:
  """The examples of a task's split, for scoring or generation.

  Args:
    task: name of a task, a FileTask, or the task itself, of SeqIO.
    split: which split.
    task_feature_lengths: {'inputs': T, 'targets': U} in tokens.
    batch_size: rows of each batch.
    task_id: which prompt a bank of prompts should use.
    use_cached, module, vocabulary: as for `Dataset`.
    max_examples: only so many, the first; None: all.
  Returns: EvaluationSet.
  Raises: UserError if there is no such task, split or example.
  """
  examples.check_lengths(task_feature_lengths or {})
  found = examples.provider(task, vocabulary, module)
  if examples.is_mixture(found):
    raise UserError(
      f'{found.name!r} is a mixture; evaluation expects one task. Its tasks: '
      f'{", ".join(member.name for member in found.tasks)}.'
    )
  tokens, texts = examples.load(
    *(found, split, task_feature_lengths, use_cached, max_examples), texts=True
  )
  known = local.definition(found.name)
  return EvaluationSet(
    task=found.name,
    split=split,
    provider=found,
    tokens=tokens,
    lengths=dict(task_feature_lengths),
    inputs_pretokenized=texts['inputs'],
    targets_pretokenized=texts['targets'],
    labels=known.target_texts() if known else None,
    batch_size=batch_size,
    task_id=task_id,
  )
