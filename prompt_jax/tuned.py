"""A frozen base with a saved prompt, from Python and without TensorFlow.

model = prompt_jax.load('mini', prompt='prompts/300/movie_sentiment.npy')
model.generate(['a moving, funny film'])
model.rank(['a moving, funny film'], ['negative', 'positive'])

bank = prompt_jax.load('mini', prompt={'reviews': 'r.npy', 'tweets': 't.npy'})
bank.rank(['great', 'meh'], ['no', 'yes'], tasks=['tweets', 'reviews'])
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import heap, params, predict
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved as saved_inserts
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import parts, saved
from prompt_jax.prompts.attached import attached, tasks_of
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import features
from prompt_jax.training import state as states
from prompt_jax.training.step import Program

EOS = 1
# What config.json of an exported whole model has: the digest of its base.
TUNED_FROM = 'tuned_from'


@dataclasses.dataclass
class TunedModel:
  """A base and a prompt that can be asked.

  Attributes:
    model: the linen model. flat: its parameters {path: array}.
    encode, decode: text -> token ids (no EOS), token ids -> text.
    lengths: {'inputs': T, 'targets': U}, the longest, in tokens.
    batch_size: rows of a compiled batch.
    tasks: that the model has a prompt each for, in the order of their ids; ()
      is one for all.
  """

  model: PromptEncoderDecoder
  flat: params.Flat
  encode: callable
  decode: callable
  lengths: dict
  batch_size: int = 32
  tasks: Sequence[str] = ()

  def __post_init__(self):
    self._ranking = Program('ranking', predict.ranker(self.model))
    self._ranking_each = Program('ranking by task', predict.ranker(self.model))
    self._decoders: dict = {}

  def _ids(self, texts: Sequence[str], tasks: Sequence[str] | None):
    """The task id of each text, int32[len(texts)]."""
    if tasks is None and not self.tasks:
      return np.zeros(len(texts), np.int32)
    if not self.tasks:
      raise UserError(
        f'tasks is {tasks!r}, but this model has one '
        'prompt for all texts; expected none. Load a prompt for each task: '
        'prompt={task: file}.'
      )
    if tasks is None or isinstance(tasks, str) or len(tasks) != len(texts):
      raise UserError(
        f'tasks is {tasks!r} for {len(texts)} texts; expected the name of a '
        f'task for each text, of {", ".join(self.tasks)}: this model has a '
        'prompt for each of them.'
      )
    for task in tasks:
      if task not in self.tasks:
        raise UserError(
          f'{task!r} is a task without a prompt; expected one of '
          f'{", ".join(self.tasks)}. Nearest: '
          f'{params.nearest(str(task), self.tasks, 1)[0]!r}.'
        )
    return np.array([self.tasks.index(task) for task in tasks], np.int32)

  def _batches(self, texts: Sequence[str], task_ids: np.ndarray):
    """Yields (rows that are real, batch) of one shape."""
    longest, cut = self.lengths['inputs'], 0
    for start in range(0, len(texts), self.batch_size):
      rows = texts[start : start + self.batch_size]
      tokens = np.zeros((self.batch_size, longest), np.int32)
      for i, text in enumerate(rows):
        ids = self.encode(text)
        cut += len(ids) >= longest
        ids = [*ids[: longest - 1], EOS]
        tokens[i, : len(ids)] = ids
      which = np.zeros(self.batch_size, np.int32)
      which[: len(rows)] = task_ids[start : start + len(rows)]
      batch = {'encoder_input_tokens': tokens, 'task_ids': which}
      yield len(rows), batch
    if cut:
      warnings.warn(
        f'{cut} of {len(texts)} inputs were cut at {longest} tokens',
        stacklevel=3,
      )

  def generate(
    self,
    texts: Sequence[str],
    decoding: predict.Decoding | None = None,
    tasks: Sequence[str] | None = None,
  ) -> list[str]:
    """The decoded target of each text.

    Args:
      texts: inputs.
      decoding: greedy unless said.
      tasks: the task of each text, where the model has a prompt each.
    """
    ids = self._ids(texts, tasks)
    decoding = decoding or predict.Decoding()
    if decoding not in self._decoders:
      run = predict.decoder(self.model, self.lengths['targets'], decoding)
      self._decoders[decoding] = Program('decoding', run)
    said = []
    for real, batch in self._batches(texts, ids):
      tokens, _ = self._decoders[decoding](self.flat, batch)
      for row in np.asarray(tokens)[:real, -1].tolist():
        said.append(self.decode(row[: row.index(EOS)] if EOS in row else row))
    return said

  def _label_tokens(self, labels: Sequence[str]) -> np.ndarray:
    """Label texts -> int32[C,U], each ended by EOS, padded with 0."""
    if not labels:
      raise UserError('There are no labels to rank; expected at least one.')
    rows = [[*self.encode(label), EOS] for label in labels]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, ids in enumerate(rows):
      tokens[i, : len(ids)] = ids
    return tokens

  def scores(
    self,
    texts: Sequence[str],
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    tasks: Sequence[str] | None = None,
  ) -> np.ndarray | list[np.ndarray]:
    """log p(label | text).

    Args:
      texts: inputs.
      labels: target texts of all inputs, or {task: target texts}.
      tasks: the task of each text, where the model has a prompt each.
    Returns: float32[len(texts), len(labels)]; with labels by task a list of
      float32[number of its labels], one a text.
    """
    ids = self._ids(texts, tasks)
    if isinstance(labels, Mapping):
      return self._scores_by_task(texts, labels, ids)
    tokens = self._label_tokens(labels)
    parts = [
      np.asarray(self._ranking(self.flat, batch, tokens))[:real]
      for real, batch in self._batches(texts, ids)
    ]
    return np.concatenate(parts or [np.zeros((0, len(labels)), np.float32)])

  def _scores_by_task(self, texts, labels, ids) -> list[np.ndarray]:
    """Scores of each text over the labels of its own task."""
    if not self.tasks:
      raise UserError(
        f'labels is a mapping of {", ".join(labels)}, but this model has one '
        'prompt for all texts; expected a list of labels. Load a prompt for '
        'each task: prompt={task: file}.'
      )
    asked = [self.tasks[i] for i in ids]
    missing = sorted(set(asked) - labels.keys())
    if missing:
      raise UserError(
        f'There are labels for {", ".join(labels) or "no task"}, but none for '
        f'{missing[0]!r}; expected the labels of every task that is asked.'
      )
    each = {task: self._label_tokens(labels[task]) for task in set(asked)}
    most = [max((x.shape[i] for x in each.values()), default=0) for i in (0, 1)]
    # a label of padding alone scores 0 and is cut off below
    table = np.zeros((len(self.tasks), *most), np.int32)
    for task, tokens in each.items():
      table[self.tasks.index(task), : len(tokens), : tokens.shape[1]] = tokens
    rows = []
    for real, batch in self._batches(texts, ids):
      of_row = table[batch['task_ids']]
      scores = np.asarray(self._ranking_each(self.flat, batch, of_row))
      rows.extend(scores[:real])
    return [
      row[: len(labels[task])] for row, task in zip(rows, asked, strict=True)
    ]

  def rank(
    self,
    texts: Sequence[str],
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    tasks: Sequence[str] | None = None,
  ) -> list[str]:
    """The likeliest label of each text.

    Args: as `scores`.
    """
    scores = self.scores(texts, labels, tasks)
    if not isinstance(labels, Mapping):
      return [labels[i] for i in scores.argmax(axis=1)]
    return [
      labels[task][row.argmax()]
      for task, row in zip(tasks, scores, strict=True)
    ]


def load(
  base: str,
  prompt: str | Sequence[str] | Mapping[str, str] | None = None,
  inserts: str | None = None,
  *,
  config: T5Config | None = None,
  vocabulary: str | None = None,
  lengths: dict | None = None,
  batch_size: int = 32,
  activation_dtype: str = 'float32',
  allow_other_base: bool = False,
) -> TunedModel:
  """Loads a base and, if given, a prompt for it.

  Args:
    base: a shipped name ('mini') or the folder of a checkpoint.
    prompt: a saved prompt, see `prompts.attached`, or a list of one for each
      stack, or {task: such} for texts of several tasks; None is the base
      alone. A saved source of several tasks asks for the task of each text
      too.
    inserts: an inserts.npz file of a method such as LoRA, or None.
    config: shapes of the base; None reads them from its config.json.
    vocabulary: a SentencePiece .model, 'bytes' or 'shipped'; None takes
      `spiece.model` beside the base, else the shipped one.
    lengths: {'inputs': T, 'targets': U}; None is 128 and 32 tokens.
    batch_size: rows of a compiled batch.
    activation_dtype: used where `config` is None.
    allow_other_base: load a prompt that was trained on another base.
  Returns: TunedModel.
  Raises: UserError if base, prompt and vocabulary do not fit one another.
  """
  heap.keep()
  folder = pretrained.resolve(base)
  if config is None:
    config = pretrained.config_of(folder, activation_dtype)
  if vocabulary is None:
    beside = os.path.join(folder, 'spiece.model')
    vocabulary = beside if os.path.isfile(beside) else 'shipped'
  model, flat, _ = assemble(
    config, folder, prompt, vocabulary, allow_other_base, inserts
  )
  encode, decode = features.codec(vocabulary)
  lengths = dict(lengths or {'inputs': 128, 'targets': 32})
  tasks = tasks_of(prompt)
  return TunedModel(model, flat, encode, decode, lengths, batch_size, tasks)


def check_used(
  command: str,
  left: Sequence[str],
  base: str,
  prompt: str | Sequence[str] | Mapping[str, str] | None,
  inserts: str | None,
) -> None:
  """Refuses to answer with a base that a method was to have tuned.

  Args:
    command: 'eval', say.
    left: modules that `ginfiles.parse` left alone; a method file names
      `prompt_jax.train`, because it says what trains.
    base, prompt, inserts: as for `load`.
  Raises: UserError if there is a method file but nothing that it trained:
    neither prompt nor inserts, nor a whole model that a run has exported.
  """
  if 'prompt_jax.train' not in left or prompt is not None or inserts:
    return
  config = pathlib.Path(pretrained.resolve(base)).expanduser() / 'config.json'
  if config.is_file() and TUNED_FROM in json.loads(config.read_text()):
    return
  raise UserError(
    f'The method file says what was trained, but `prompt-jax {command}` was '
    f'given none of it: PROMPT_FILE and INSERTS_FILE are None, and {base} is '
    'a base as it was before. Expected the prompt or the inserts of the run, '
    'or as INITIAL_CHECKPOINT_PATH a whole model, which `prompt-jax export '
    '--whole` writes (methods/full.gin). To ask the untuned base, leave the '
    'method file out.'
  )


def assemble(
  config: T5Config,
  base: str,
  prompt: str | Sequence[str] | Mapping[str, str] | None,
  vocabulary: str,
  allow_other_base: bool = False,
  inserts: str | None = None,
):
  """The model, its parameters and the base's digest, checked to fit.

  Args: as `load`.
  Returns: (linen model, {path: array}, digest of the base as stored).
  Raises: UserError if the prompt or the inserts are of another shape or base.
  """
  table, own, about = (), {}, None
  if inserts is not None:
    table, own, about = saved_inserts.load(inserts)
  given = attached(prompt, config.d_model)
  model = PromptEncoderDecoder(config, table, **given.fields)
  shapes = states.abstract(model)[0]
  saved_inserts.check_fit(shapes, own, str(inserts))
  asked = {path: x for path, x in shapes.items() if '/prompt/' in path}
  odd = params.difference(asked, given.own, limit=5)
  if odd:
    lines = '\n  '.join(odd)
    raise UserError(
      f'{prompt} does not fit the model it describes:\n  {lines}\nExpected '
      'the arrays of its own sidecar, at the width of this base. Copy the '
      'file and its .json again.'
    )
  expected = states.base_shapes(model)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  flat, digest = states.load_base(
    model, base, (), dict.fromkeys(expected, here)
  )
  known = features.vocabulary_digest(vocabulary)
  sidecars = zip((*given.sidecars, about), (*given.files, inserts), strict=True)
  for sidecar, path in sidecars:
    saved.check_base(sidecar, digest, known, allow_other_base, path)
  for path, array in {**given.own, **own}.items():
    flat[path] = jnp.asarray(array)
  return model, flat, digest


def _listed(files) -> list[str]:
  """The prompt files that PROMPT_FILE names, in whatever form."""
  if isinstance(files, str):
    return [files]
  files = files.values() if isinstance(files, Mapping) else files
  return [name for each in files for name in _listed(each)]


def check_length(files, length: int) -> None:
  """Raises UserError unless the prompt files have the length, a layer each."""
  if files is None:
    raise UserError(
      f'PROMPT_LENGTH is {length}, but there is no PROMPT_FILE; expected the '
      'saved prompt whose length that is. Give PROMPT_FILE, or leave '
      'PROMPT_LENGTH out for the model without a prompt.'
    )
  for file in _listed(files):
    if not file.endswith('.npz'):
      depth = (saved.load(file)[1] or {}).get('depth', 1)
      saved.load(file, (length * depth, None))
      continue
    found = parts.load(file)[0]().length
    if found != length:
      raise UserError(
        f'PROMPT_LENGTH is {length}, but the source in {file} has {found} '
        f'rows; expected the length it was trained with. Set PROMPT_LENGTH='
        f'{found}, or leave it out: the file tells.'
      )
