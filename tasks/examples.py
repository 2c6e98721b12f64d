"""The examples of SeqIO tasks as token sequences, in memory or as a stream.

name -> seqio.Task -> tf.data -> Tokens, cut to length with EOS kept
"""

import collections
from collections.abc import Mapping
import importlib
import inspect
import itertools
import sys

from absl import logging
import numpy as np

from prompt_jax import batches
from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.tasks import features, local, plain

FEATURES = ('inputs', 'targets')
READ = 1024  # examples turned from TensorFlow to NumPy at a time


def provider(name, vocabulary: str = 'shipped', module: str | None = None):
  """The SeqIO task or mixture of a name.

  Args:
    name: a registered name, the name of a shipped task, a FileTask, or what
      this function returns, which stays what it is.
    vocabulary: what a shipped task, or a FileTask that has none of its own, is
      tokenised with, whatever an earlier call in this process asked for. What
      was registered with one, a mixture, and a task of SeqIO's keep theirs.
    module: imported first; a module that registers tasks.
  Returns: seqio.Task or seqio.Mixture; a PlainTask for a FileTask or a
    shipped task where nothing has imported SeqIO.
  Raises: UserError if there is none (shows the nearest names).
  """
  if module:
    try:
      importlib.import_module(module)
    except ModuleNotFoundError as error:
      if not error.name or not f'{module}.'.startswith(f'{error.name}.'):
        raise  # the module is there; something that it imports is not
      raise UserError(
        f'There is no module {module!r} (no {error.name!r}); expected the '
        'module that registers your tasks. Set MIXTURE_OR_TASK_MODULE to one '
        'that Python can import from here.'
      ) from error
  if hasattr(name, 'output_features'):
    return name
  if isinstance(name, local.FileTask):
    return local.register(name, *_shown(name, vocabulary))
  shipped, names = local.shipped_names(), set()
  given = local.following(name)
  if given is None and 'seqio' in sys.modules:
    import seqio

    names = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    if name in names:
      return seqio.get_mixture_or_task(name)
  if given is None and name in shipped and not local.plainly(name):
    given = local.shipped(name)
  if given is not None:
    return local.register(given, *_shown(given, vocabulary))
  if known := local.plainly(name):
    return with_seqio(known) if 'seqio' in sys.modules else known
  close = nearest(str(name), sorted(names | set(shipped)))
  raise UserError(
    f'No task or mixture is called {name!r}; expected one that is registered '
    f'with SeqIO or shipped. Nearest: {", ".join(close) or "(none)"}. For '
    'your own module set MIXTURE_OR_TASK_MODULE, for a file use FileTask.'
  )


def _shown(task, vocabulary):
  """(vocabulary of a FileTask: its own, else the run's; whether the latter)."""
  follows = task.vocabulary == 'shipped'
  return (vocabulary if follows else task.vocabulary), follows


def with_seqio(task):
  """The seqio.Task of a PlainTask; any other task as it is."""
  if not isinstance(task, plain.PlainTask):
    return task
  found = features.vocabulary(task.vocabulary.file)
  follows = local.following(task.name) is not None
  return local.register(local.definition(task.name), found, follows)


def is_mixture(provider) -> bool:
  """Whether it is a seqio.Mixture."""
  return hasattr(provider, 'tasks')


def shares(mixture) -> dict[str, float]:
  """The rate of every task of a mixture, sub-mixtures taken apart.

  rate(task) = sum over entries: own rate, or rate(sub) x share within it

  Args:
    mixture: seqio.Mixture; a rate may be a function, of a sub-mixture too.
  Returns: {task name: rate}, sorted by name as SeqIO does.
  """
  import seqio

  rates: dict[str, float] = collections.defaultdict(float)
  for name, rate in mixture.rate_per_task_name.items():
    part = seqio.get_mixture_or_task(name)
    value = float(rate(part) if callable(rate) else rate)
    if is_mixture(part):
      inner = shares(part)
      for task, each in inner.items():
        rates[task] += value * each / sum(inner.values())
    else:
      rates[name] += value
  return dict(sorted(rates.items()))


def check_split(task, split: str) -> None:
  """Raises UserError unless the task has the split."""
  if split not in task.splits and '[' not in split:  # TFDS: 'train[:90%]'
    raise UserError(
      f'Task {task.name!r} has no split {split!r}; expected one of '
      f'{", ".join(sorted(task.splits))}.'
    )


def check_lengths(lengths: Mapping[str, int]) -> None:
  """Raises UserError unless both lengths are whole and at least 1."""
  for name in FEATURES:
    length = lengths.get(name)
    if not isinstance(length, int) or length < 1:
      raise UserError(
        f'TASK_FEATURE_LENGTHS gives {name!r} as {length!r}; expected a '
        "number of tokens, at least 1, such as {'inputs': 64, 'targets': 4}."
      )


def cached(task, use_cached: bool) -> bool:
  """Whether to read SeqIO's offline cache; a task without one is as it is."""
  if not (use_cached and task.supports_caching):
    return False
  if task.cache_dir is None:
    raise UserError(
      f"Task {task.name!r} has no offline cache in SeqIO's cache folders; "
      'expected one, since USE_CACHED_TASKS is on. Set USE_CACHED_TASKS=False '
      'to tokenise it now.'
    )
  return True


def _source(task, split, lengths, use_cached, seed=0, repeat=False):
  """Uncut tf.data examples: in file order, or shuffled and without end."""
  import seqio

  task = with_seqio(task)

  def needs(step):
    argument = inspect.signature(step).parameters.get('sequence_length')
    return argument is not None and argument.default is argument.empty

  # a preprocessor that cannot do without lengths (span corruption) gets them
  lengths = dict(lengths) if any(map(needs, task.preprocessors)) else None
  seed &= 0x7FFFFFFF  # tf.data wants a small one
  use_cached = cached(task, use_cached)
  if isinstance(task.source, seqio.FunctionDataSource) and not use_cached:
    # SeqIO would hand the seed to a function that may not take one
    rows = task.source.get_dataset(split=split, shuffle=False)
    rows = rows.repeat() if repeat else rows
    rows = task.preprocess_precache(rows, seed=seed)
    rows = task.preprocess_postcache(rows, sequence_length=lengths, seed=seed)
    size = seqio.SHUFFLE_BUFFER_SIZE
    return rows.shuffle(size, seed=seed) if repeat else rows
  return task.get_dataset(
    sequence_length=lengths,
    split=split,
    use_cached=use_cached,
    shuffle=repeat,
    seed=seed,
    num_epochs=None if repeat else 1,
    trim_output_features=False,
  )


def _only(rows, names):
  """The dataset with those features alone; raises where one is missing."""
  absent = [name for name in names if name not in rows.element_spec]
  if absent:
    raise UserError(
      f'The examples have no feature {absent[0]!r}; expected text-to-text '
      f'examples, got the features {", ".join(sorted(rows.element_spec))}.'
    )
  return rows.map(lambda example: {name: example[name] for name in names})


def _read(rows, names, texts):
  """Reads tf.data examples: ({name: Ragged}, {name: [text]})."""
  import tensorflow as tf

  found, sizes = collections.defaultdict(list), collections.defaultdict(list)
  words = {name: [] for name in texts}
  for part in rows.ragged_batch(READ):
    for name in names:
      values = part[name]
      if not isinstance(values, tf.RaggedTensor):  # all of one known length
        values = tf.RaggedTensor.from_tensor(values)
      found[name].append(values.flat_values.numpy())
      sizes[name].append(values.row_lengths().numpy())
    for name in texts:
      words[name] += [text.decode('utf-8') for text in part[name].numpy()]
  whole = {}
  for name in found:
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes[name]))])
    whole[name] = batches.Ragged(np.concatenate(found[name]), starts)
  return whole, words


def load(task, split, lengths, use_cached=False, limit=None, texts=False):
  """Tokenises a split once and cuts it to length; warns of what was cut.

  Args:
    task: seqio.Task.
    split: its name.
    lengths: {'inputs': T, 'targets': U} in tokens, EOS included.
    use_cached: read SeqIO's offline cache.
    limit: at most so many examples, the first ones.
    texts: whether to keep the texts too.
  Returns: (Tokens, {'inputs': texts, 'targets': texts} or {}), in file order.
  Raises: UserError if the split is missing or empty.
  """
  check_split(task, split)
  rows = local.rows_of(task)
  if rows is not None:  # one tokeniser, whether SeqIO is there or not
    whole, words = rows.read(split, limit)
  else:
    rows = _source(task, split, lengths, use_cached)
    kept = [
      name
      for name in ('inputs_pretokenized', 'targets_pretokenized')
      if texts and name in rows.element_spec
      if rows.element_spec[name].shape.rank == 0
    ]
    rows = _only(rows, [*FEATURES, *kept]).take(-1 if limit is None else limit)
    whole, words = _read(rows, FEATURES, kept)
  if not whole:
    raise UserError(
      f'Split {split!r} of task {task.name!r} is empty; expected at least '
      'one example. Look at its source and at preprocessors that filter.'
    )
  found, shown = {}, {}
  for name in FEATURES:
    found[name], cut = whole[name].cut(lengths[name])
    if cut:
      logging.warning(
        '%d of %d examples of %s were cut at %d tokens (%s)',
        *(cut, len(whole[name]), task.name, lengths[name], name),
      )
    if texts:
      decode = task.output_features[name].vocabulary.decode
      shown[name] = words.get(f'{name}_pretokenized') or [
        decode(sequence.tolist()) for sequence in whole[name]
      ]
  return batches.Tokens(**found), shown


class Stream:
  """One task's endless shuffled examples, for a task too large for memory.

  The order is SeqIO's: a buffer shuffled by seed. `seek` restores a place by
  skipping the examples before it.
  """

  def __init__(self, task, split, lengths, use_cached, seed):
    check_split(task, split)
    self._task, self._lengths, self._warned = task, lengths, False
    self._rows = lambda: _only(
      _source(task, split, lengths, use_cached, seed, repeat=True), FEATURES
    )

  def seek(self, place: int) -> None:
    """Makes the example at `place` the next."""
    # made anew: tf.data shuffles each pass over one object differently
    self._next = self._rows().skip(place).as_numpy_iterator()

  def take(self, n: int) -> batches.Tokens:
    """The next n examples."""
    rows = list(itertools.islice(self._next, n))
    if len(rows) < n:
      raise UserError(
        f'The stream of task {self._task.name!r} ended; expected it to repeat '
        'for ever. Is the split empty?'
      )
    found = {}
    for name in FEATURES:
      whole = batches.Ragged.of(row[name] for row in rows)
      found[name], cut = whole.cut(self._lengths[name])
      if cut and not self._warned:
        self._warned = True
        logging.warning(
          'examples of %s are being cut at %d tokens (%s)',
          *(self._task.name, self._lengths[name], name),
        )
    return batches.Tokens(**found)
