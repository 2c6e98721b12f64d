"""Tasks made from local files: TSV, CSV or JSON lines, one example a row.

    inputs  = template filled from the columns
    targets = verbalizer[label], or the label itself

What is reported, and what metrics compare, is the label again.

    FileTask(name='reviews', files={'train': 'train.tsv'},
             labels=['negative', 'positive'])

Files are read whole and checked when a task is registered, so a mistake in
them is reported before anything compiles.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
import sys

from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.tasks import features, metrics, plain, table, template

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class FileTask:
  """A text-to-text task over local files.

  Args:
    name: what the task is called; letters, digits and . : _ #
    files: {split: path}; the ending of a path says its format. TSV: a header
      line, fields parted by tabs, no quoting. CSV: a header line, quoting as
      spreadsheets write it. JSONL: an object a line.
    template: format string over the column names, the input text.
    label_column: the column that holds the label.
    labels: the closed list of labels; None for free text and numbers.
    verbalizer: {label: target text}; None: a label is its own target text.
    metric: a name of tasks/metrics.py, or a list of them.
    vocabulary: as for `features.vocabulary`; used where `register` gets none.
  """

  name: str
  files: Mapping[str, str]
  template: str = '{text}'
  label_column: str = 'label'
  labels: Sequence[str] | None = None
  verbalizer: Mapping[str, str] | None = None
  metric: str | Sequence[str] = 'accuracy'
  vocabulary: str = 'shipped'

  def closed_labels(self) -> list[str] | None:
    """The labels a file may hold; None where any text may stand."""
    if self.labels is not None:
      return list(self.labels)
    return list(self.verbalizer) if self.verbalizer is not None else None

  def target_texts(self) -> list[str] | None:
    """The target texts, one a label in the order of the labels, or None."""
    labels = self.closed_labels()
    if labels is None or self.verbalizer is None:
      return labels
    return [self.verbalizer[label] for label in labels]

  def label_of(self, text: str) -> str:
    """The label whose target text this is; any other text as it is.

    A text that is a label but no target text is put in quotes: it is not
    what the model was to say, and must not count as that label.
    """
    if self.verbalizer is None:
      return text
    for label, target in self.verbalizer.items():
      if text == target:
        return label
    return repr(text) if text in self.verbalizer else text

  def metric_names(self) -> list[str]:
    """Names of tasks/metrics.py, one or several."""
    named = self.metric
    return [named] if isinstance(named, str) else list(named)

  def check_answers(self, texts: Iterable[str]) -> None:
    """Raises UserError where LABELS are not what the model is to say."""
    targets, texts = self.target_texts() or (), list(texts)
    for text in texts:
      if self.verbalizer and text in self.verbalizer and text not in targets:
        raise UserError(
          f'LABELS hold {text!r}, a label of task {self.name!r}, for which '
          f'the model says {self.verbalizer[text]!r}; expected target texts, '
          f'such as {", ".join(targets[:3])}. Leave LABELS out to rank the '
          'labels of the task.'
        )
    if targets and texts and not {*targets} & {*texts}:
      raise UserError(
        f'LABELS are {texts}, none of them a target of task {self.name!r}, '
        f'so no answer could be right; expected {", ".join(targets[:5])}. '
        'Leave LABELS out to rank the labels of the task.'
      )


def _check_labels(task: FileTask) -> None:
  """Raises UserError on an empty, repeated or half-verbalised label list."""
  labels = task.closed_labels()
  if labels is None:
    return
  where = f'of task {task.name!r}'
  if isinstance(task.labels, str) or not labels:
    raise UserError(
      f'The labels {where} are {task.labels!r}; expected a list of texts '
      "such as ['negative', 'positive'], or None for free text."
    )
  odd = [label for label in labels if not isinstance(label, str)]
  if odd:
    raise UserError(
      f'The labels {where} hold {odd[0]!r}; expected texts. Write it in '
      f'quotes: {str(odd[0])!r}.'
    )
  verbalizer = task.verbalizer
  if verbalizer is not None and set(verbalizer) != set(labels):
    raise UserError(
      f'The verbalizer {where} has the labels {sorted(verbalizer)}; expected '
      f'those of the list, {sorted(labels)}. Give each label one target text.'
    )
  for what, texts in ('labels', labels), ('target texts', task.target_texts()):
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
      raise UserError(
        f'The {what} {where} hold {twice[0]!r} more than once; expected each '
        'once, or predictions could not tell them apart. Remove the repeat.'
      )


def columns(task: FileTask) -> list[str]:
  """The columns that the template names, each once, in its order."""
  pieces = template.pieces(task)
  named = [column for _, column, _ in pieces if column is not None]
  return list(dict.fromkeys(named))


def inputs(task: FileTask, rows: Iterable[tuple[int, Mapping]], path):
  """The input text of every row; a row needs no label.

  Args:
    task: the definition; its files are not read.
    rows: (line number, {column: field}), as `table.rows` yields them.
    path: of the file, for messages.
  Returns: one text a row.
  Raises: UserError naming line and column of the first row that lacks one,
    or if the labels or the template of the task are wrong.
  """
  _check_labels(task)
  pieces = template.pieces(task)
  use = f'the template {task.template!r} of task {task.name!r}'
  return [template.fill(pieces, row, number, path, use) for number, row in rows]


def examples(task: FileTask, split: str) -> list[tuple[str, str]]:
  """The (input text, target text) pairs of a split, in file order.

  Args:
    task: the definition.
    split: a key of its files.
  Returns: one pair a row.
  Raises: UserError naming the file and line of the first mistake.
  """
  path = pathlib.Path(task.files[split]).expanduser()
  if not path.is_file():
    raise features.missing_file(
      path, f'The {split} file of task {task.name!r},'
    )
  pieces = template.pieces(task)
  labels = task.closed_labels()
  allowed = set(labels or ())
  pairs = []
  for number, row in table.rows(path):
    text = template.fill(pieces, row, number, path)
    label = template.column_of(
      row, task.label_column, number, path, 'label_column'
    )
    if labels is not None and label not in allowed:
      raise UserError(
        f'{path} line {number} has the label {label!r}; expected one of '
        f'{", ".join(labels)}. Nearest: {nearest(label, labels, 1)[0]!r}. '
        f'Correct the line, or the labels of task {task.name!r}.'
      )
    pairs.append((text, (task.verbalizer or {}).get(label, label)))
  if not pairs:
    raise UserError(
      f'{path} holds no examples; expected at least one. A .tsv or .csv file '
      'starts with a header line, a .jsonl file with its first object.'
    )
  return pairs


@dataclasses.dataclass(frozen=True)
class _Registered:
  task: FileTask
  vocabulary: object
  digest: str  # of the examples: the same path may hold other rows later
  provider: object  # to notice a registry that was reset
  rows: plain.PlainTask = dataclasses.field(compare=False)
  follows: bool = dataclasses.field(compare=False)


_registered: dict[str, _Registered] = {}


def definition(name: str) -> FileTask | None:
  """The FileTask registered under a name; None for any other SeqIO task."""
  found = _registered.get(name)
  return found and found.task


def register(file_task: FileTask, vocabulary=None, follows: bool | None = None):
  """Registers a FileTask; the same one twice is fine.

  text -> tokenize -> append EOS; the texts stay in the example as
  'inputs_pretokenized' and 'targets_pretokenized'.

  Args:
    file_task: the definition.
    vocabulary: a SeqIO vocabulary or its path; None: that of the task.
    follows: whether a run may ask for another; None: where none is given.
  Returns: a seqio.Task; a PlainTask where nothing has imported SeqIO. With
    another vocabulary it takes the name; what was there before stays usable.
  Raises: UserError on any mistake in the definition or its files, or if the
    name already stands for something else.
  """
  name = file_task.name
  if not file_task.files:
    raise UserError(
      f'Task {name!r} has no files; expected {{split: path}} such as '
      "{'train': 'train.tsv', 'validation': 'validation.tsv'}."
    )
  _check_labels(file_task)
  names, labels = file_task.metric_names(), file_task.closed_labels()
  bound = [metrics.bind(each, labels) for each in names]
  data = {split: examples(file_task, split) for split in file_task.files}
  digest = hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()

  follows = vocabulary is None if follows is None else follows
  path = vocabulary or file_task.vocabulary
  light = isinstance(path, str) and 'seqio' not in sys.modules
  if light:
    vocabulary = plain.vocabulary(path)
  elif isinstance(path, str):
    vocabulary = features.vocabulary(path)
  rows = plain.PlainTask(name, data, vocabulary, bound, file_task.label_of)
  new = _Registered(file_task, vocabulary, digest, None, rows, follows)
  if light:
    return (name in _registered and _same(new)) or _kept(new, rows)
  import seqio

  if name in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
    if found := _same(new):
      return found
    seqio.TaskRegistry.remove(name)
  if plainly(name):  # SeqIO has been imported since
    _same(new)
  return _kept(new, plain.add_to_seqio(rows))


def _kept(new: _Registered, provider):
  """The provider, which is registered from now on."""
  kept = dataclasses.replace(new, provider=provider)
  _registered[new.task.name] = kept
  return provider


def rows_of(provider) -> plain.PlainTask | None:
  """The rows of a FileTask, as it is registered; None for any other task."""
  if isinstance(provider, plain.PlainTask):
    return provider
  found = _registered.get(provider.name)
  return found.rows if found and found.provider is provider else None


def plainly(name: str) -> plain.PlainTask | None:
  """The task registered under a name without SeqIO, or None."""
  found = _registered.get(name)
  known = found is not None and isinstance(found.provider, plain.PlainTask)
  return found.provider if known else None


def _standing(name: str) -> _Registered | None:
  """What a name stands for; None if that is no FileTask."""
  old = _registered.get(name)
  if 'seqio' in sys.modules:
    import seqio

    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
      if name in registry.names():
        return old if old and registry.get(name) is old.provider else None
  return old if plainly(name) else None


def following(name: str) -> FileTask | None:
  """The FileTask of a name, if a run may ask for another vocabulary."""
  old = _standing(name)
  return old.task if old and old.follows else None


def _same(new: _Registered):
  """The registered task that equals `new`; None if but for the vocabulary.

  Raises: UserError if the name stands for something else.
  """
  name = new.task.name
  old, there = _registered.get(name), _standing(name) is not None
  like = lambda **also: dataclasses.replace(new, **also) == old
  if there and like(provider=old.provider):
    return old.provider
  if there and like(provider=old.provider, vocabulary=old.vocabulary):
    return None
  raise UserError(
    f'The task name {name!r} already stands for another definition '
    '(other files, rows, template, labels or metric); expected one definition '
    'a name. Choose another name.'
  )


def _table_of_shipped(root: pathlib.Path) -> dict[str, dict]:
  """{name: settings} of root/tasks.json; empty where there is no such file."""
  file = root / 'tasks.json'
  return json.loads(file.read_text('utf-8')) if file.is_file() else {}


def shipped_names(root=None) -> list[str]:
  """Names of the tasks that come with the package, sorted."""
  return sorted(
    _table_of_shipped(pathlib.Path(root or features.ASSETS / 'tasks'))
  )


def shipped(name: str, root=None) -> FileTask:
  """The definition of a task that comes with the package.

  Args:
    name: a key of tasks.json, whose value holds what a FileTask takes, and
      licence and notice (a file of assets/licences).
    root: folder of tasks.json and <name>/<split>.tsv; None: the package's.
  Returns: a FileTask over the split files that are there.
  Raises: UserError if there is no such task (shows the nearest).
  """
  root = pathlib.Path(root or features.ASSETS / 'tasks')
  table = _table_of_shipped(root)
  if name not in table:
    close = ', '.join(nearest(name, sorted(table))) or 'none is shipped'
    raise UserError(
      f'No task {name!r} comes with this package; expected a name in '
      f'{root / "tasks.json"}. Nearest: {close}. For your own files use '
      'FileTask.'
    )
  settings = dict(table[name])
  for about in ('licence', 'notice'):
    settings.pop(about, None)
  paths = {split: root / name / f'{split}.tsv' for split in SPLITS}
  files = {split: str(path) for split, path in paths.items() if path.is_file()}
  return FileTask(name=name, files=files, **settings)
