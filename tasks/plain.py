"""Tasks over local files, read without TensorFlow.

A PlainTask has what the package reads of a seqio.Task, and the same tokens:
importing TensorFlow takes longer than tokenising any task that ships.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import re

import numpy as np

from prompt_jax import batches
from prompt_jax.errors import UserError
from prompt_jax.tasks import features

_UNKNOWN = 2
_DEFINED = 4  # sentencepiece_model.proto: Type.USER_DEFINED


class Vocabulary:
  """Text <-> ids as `features.vocabulary` has them, sentinels included."""

  def __init__(self, file: str):
    self.file = file
    if file == 'bytes':
      self.encode, self._text = features.codec(file)
      self.vocab_size = 3 + 256  # padding, EOS, unknown; Xue et al. 2022
      return
    pieces = _pieces(file)
    self.encode, self._text = pieces.encode, pieces.decode
    self.vocab_size = pieces.get_piece_size()

  def decode(self, ids: Sequence[int]) -> str:
    """The text of some ids, up to the first EOS."""
    ids = [int(i) if i < self.vocab_size else _UNKNOWN for i in ids]
    if features.EOS in ids:
      ids = ids[: ids.index(features.EOS)]
    return self._text(ids)


def _pieces(file: str):
  """The SentencePiece processor of a file, with the sentinels of T5."""
  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto()
  pieces = sentencepiece.SentencePieceProcessor()
  try:
    model.ParseFromString(features.vocabulary_bytes(file))
    for number in reversed(range(features.EXTRA_IDS)):  # the first is last
      model.pieces.add(piece=f'▁<extra_id_{number}>', score=0.0, type=_DEFINED)
    pieces.LoadFromSerializedProto(model.SerializeToString())
  except UserError:
    raise
  except Exception as error:  # what a broken model raises differs by version
    raise UserError(
      f'{file} is not a SentencePiece model ({type(error).__name__}); '
      "expected a .model file, or the word 'bytes' for ByT5."
    ) from error
  if pieces.eos_id() != features.EOS:
    raise UserError(
      f'{file} ends sequences with id {pieces.eos_id()}; the models here '
      'expect padding 0, end of sequence 1. Train it with --pad_id=0 '
      '--eos_id=1 --unk_id=2 --bos_id=-1.'
    )
  return pieces


@functools.lru_cache
def _kept(file: str) -> Vocabulary:
  return Vocabulary(file)


def vocabulary(path: str = 'shipped') -> Vocabulary:
  """The vocabulary of a name or file, as for `features.vocabulary`.

  Returns: one object per file.
  """
  if path == 'bytes' or path.startswith('gs://'):
    return _kept(path)
  return _kept(str(features.vocabulary_file(path).resolve()))


@dataclasses.dataclass(frozen=True)
class Feature:
  """What `seqio.Feature` says of a feature, as far as it is read."""

  vocabulary: Vocabulary
  add_eos: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class PlainTask:
  """A task over rows in memory.

  Args:
    name: of the task.
    pairs: {split: [(input, target)]}.
    vocabulary: of both.
    predict_metric_fns: fn(targets, predictions) -> {name: value}.
    label_of: text -> what is reported of it.
  """

  name: str
  pairs: Mapping[str, Sequence[tuple[str, str]]]
  vocabulary: Vocabulary
  predict_metric_fns: Sequence[Callable]
  label_of: Callable[[str], str]
  supports_caching = False

  def __post_init__(self):
    if not re.fullmatch(r'[\w.:#]+', self.name):  # as SeqIO has it
      raise UserError(
        f'SeqIO does not take the task name {self.name!r}; expected letters, '
        'digits and . : _ # only.'
      )

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits."""
    return tuple(self.pairs)

  @property
  def output_features(self) -> dict[str, Feature]:
    """{'inputs', 'targets'}."""
    feature = Feature(self.vocabulary)
    return {'inputs': feature, 'targets': feature}

  def num_input_examples(self, split: str) -> int:
    """Examples of a split."""
    return len(self.pairs[split])

  def postprocess_fn(self, text: str, **_) -> str:
    """What is reported of a target text."""
    return self.label_of(text)

  def read(self, split: str, limit: int | None = None):
    """({name: Ragged of token ids with EOS}, {name_pretokenized: texts})."""
    pairs = self.pairs[split][:limit]
    tokens, words = {}, {}
    for name, texts in zip(
      ('inputs', 'targets'), zip(*pairs, strict=True), strict=True
    ):
      known = {}  # of targets there are few
      for text in texts:
        if text not in known:
          ids = [*self.vocabulary.encode(text), features.EOS]
          known[text] = np.asarray(ids, np.int32)
      tokens[name] = batches.Ragged.of(known[text] for text in texts)
      words[f'{name}_pretokenized'] = list(texts)
    return tokens, words


def _source(pairs: Mapping[str, Sequence[tuple[str, str]]]):
  """A SeqIO source over {split: [(input, target)]} held in memory."""
  import seqio
  import tensorflow as tf

  def dataset(split, shuffle_files=False, seed=None):
    inputs, targets = map(list, zip(*pairs[split], strict=True))
    rows = tf.data.Dataset.from_tensor_slices(
      {'inputs': inputs, 'targets': targets}
    )
    return rows.shuffle(len(inputs), seed=seed) if shuffle_files else rows

  counts = {split: len(rows) for split, rows in pairs.items()}
  return seqio.FunctionDataSource(
    dataset, splits=list(pairs), num_input_examples=counts
  )


def add_to_seqio(task: PlainTask):
  """Registers rows whose vocabulary is SeqIO's; returns the seqio.Task."""
  import seqio

  read = seqio.preprocessors
  return seqio.TaskRegistry.add(
    task.name,
    source=_source(task.pairs),
    preprocessors=[read.tokenize, read.append_eos],
    output_features=features.output_features(task.vocabulary),
    postprocess_fn=lambda text, **_: task.label_of(text),
    metric_fns=task.predict_metric_fns,
  )
