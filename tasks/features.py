"""What every task produces: token features over one vocabulary.

    inputs, targets: int32 token ids, 0 = padding, 1 = end of sequence (EOS)

SeqIO is imported inside the functions that need it: `vocabulary_digest` is
for exported files, which are written and read without TensorFlow.
"""

from collections.abc import Callable
import functools
import hashlib
import os
import pathlib

import prompt_jax
from prompt_jax.errors import UserError
from prompt_jax.params import nearest

ASSETS = pathlib.Path(prompt_jax.__file__).parent / 'assets'
EXTRA_IDS = 100  # sentinels of T5; Raffel et al. 2020, section 3.1.4
EOS = 1  # T5's vocabularies: 0 = padding, 1 = end of sequence, 2 = unknown


def missing_file(path: pathlib.Path, what: str) -> UserError:
  """The error for a file that is not there, with the names that are."""
  folder = path.parent
  while not folder.is_dir() and folder != folder.parent:
    folder = folder.parent
  sought = path.relative_to(folder).parts[0]
  names = nearest(sought, sorted(os.listdir(folder)))
  close = f' Nearest names there: {", ".join(names)}.' if names else ''
  return UserError(
    f'{what} {path} does not exist; expected a file. {folder} does exist.'
    f'{close} Correct the path (a relative one starts at {os.getcwd()}).'
  )


def vocabulary_file(path: str = 'shipped') -> pathlib.Path:
  """The SentencePiece model that `path` stands for.

  Args:
    path: 'shipped' (the one model in assets/vocab) or a local path.
  Returns: a file that exists.
  Raises: UserError if it does not.
  """
  if path != 'shipped':
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
      raise missing_file(file, 'The vocabulary')
    return file
  models = sorted((ASSETS / 'vocab').glob('*.model'))
  if len(models) != 1:
    raise UserError(
      f"vocabulary 'shipped' expects one *.model file in {ASSETS / 'vocab'}, "
      f'found {len(models)}. Reinstall the package, or name a SentencePiece '
      "model, or 'bytes'."
    )
  return models[0]


def vocabulary_bytes(path: str = 'shipped') -> bytes:
  """The bytes of a SentencePiece model, local or gs://.

  Raises: UserError if it cannot be read.
  """
  if not path.startswith('gs://'):
    return vocabulary_file(path).read_bytes()
  import tensorstore

  bucket, _, name = path.removeprefix('gs://').partition('/')
  where = {'driver': 'gcs', 'bucket': bucket, 'path': ''}
  try:
    found = tensorstore.KvStore.open(where).result().read(name).result()
  except ValueError as error:
    raise UserError(
      f'The vocabulary {path} cannot be read: {error}. Expected access to '
      'the bucket; copy the file and set VOCABULARY to the copy.'
    ) from error
  if found.state != 'value':
    raise UserError(
      f'The vocabulary {path} does not exist; expected a .model file there. '
      'Set VOCABULARY to a SentencePiece model.'
    )
  return found.value


def codec(path: str = 'shipped') -> tuple[Callable, Callable]:
  """Text <-> ids without TensorFlow.

  Args:
    path: as for `vocabulary`.
  Returns: (text -> list of ids without EOS, ids -> text; sentinels are left
    out).
  Raises: UserError if the file is missing or no SentencePiece model.
  """
  if path == 'bytes':  # ids 0, 1, 2 are padding, EOS, unknown
    text_of = lambda ids: bytes(i - 3 for i in ids if 3 <= i < 259)
    return (
      lambda text: [byte + 3 for byte in text.encode()],
      lambda ids: text_of(ids).decode(errors='ignore'),
    )
  import sentencepiece

  pieces = sentencepiece.SentencePieceProcessor()
  try:
    pieces.LoadFromSerializedProto(vocabulary_bytes(path))
  except (OSError, RuntimeError) as error:
    raise UserError(
      f'{path} is not a SentencePiece model that can be read: {error}. '
      'Expected the .model file of the vocabulary the base was trained with.'
    ) from error
  size = pieces.get_piece_size()  # sentinels lie above it
  encode = lambda text: pieces.encode(text, add_bos=False, add_eos=False)
  return encode, lambda ids: pieces.decode([i for i in ids if i < size])


def encoder(path: str = 'shipped') -> Callable[[str], list[int]]:
  """The first half of `codec`: what initializers turn labels to ids with."""
  return codec(path)[0]


def vocabulary(path: str = 'shipped'):
  """The SeqIO vocabulary of a name or a SentencePiece model.

  Args:
    path: 'shipped', 'bytes' (ByT5: UTF-8 byte + 3), a local .model file or a
      gs:// address.
  Returns: seqio.SentencePieceVocabulary with 100 extra ids, or
    seqio.ByteVocabulary; one object per file.
  Raises: UserError if the file is missing, is not a SentencePiece model, or
    does not end sequences with id 1.
  Source: Raffel et al. 2020, section 3.1.3; Xue et al. 2022 (ByT5), section 3.
  """
  if path == 'bytes':
    return _byte_vocabulary()
  if path.startswith('gs://'):
    return _sentencepiece(path)
  return _sentencepiece(str(vocabulary_file(path).resolve()))


@functools.lru_cache
def _byte_vocabulary():
  import seqio

  return seqio.ByteVocabulary()


@functools.lru_cache
def _sentencepiece(file: str):
  import seqio

  found = seqio.SentencePieceVocabulary(file, extra_ids=EXTRA_IDS)
  try:
    eos = found.eos_id
  except Exception as error:  # what a broken model raises differs by version
    raise UserError(
      f'{file} is not a SentencePiece model ({type(error).__name__}); '
      "expected a .model file, or the word 'bytes' for ByT5."
    ) from error
  if eos != EOS:
    raise UserError(
      f'{file} ends sequences with id {eos}; the models here expect padding '
      '0, end of sequence 1. Train it with --pad_id=0 --eos_id=1 --unk_id=2 '
      '--bos_id=-1.'
    )
  return found


def vocabulary_digest(path: str = 'shipped') -> str:
  """Hex digest of a vocabulary; equal iff the model files are bitwise equal.

  digest = sha256(file bytes)[:16], or of the word 'bytes'

  Args:
    path: as for `vocabulary`.
  Returns: 16 hexadecimal digits.
  Raises: UserError if the file is missing.
  """
  data = b'bytes' if path == 'bytes' else vocabulary_bytes(path)
  return hashlib.sha256(data).hexdigest()[:16]


def output_features(vocabulary) -> dict:
  """{'inputs', 'targets'}: SeqIO features that end in EOS.

  Args:
    vocabulary: a SeqIO vocabulary.
  Returns: {name: seqio.Feature}.
  """
  import seqio

  feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
  return {'inputs': feature, 'targets': feature}
