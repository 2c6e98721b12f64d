"""A frozen base with a saved prompt, from Python and without TensorFlow.

model = prompt_jax.load('mini', prompt='prompts/300/movie_sentiment.npy')
model.generate(['a moving, funny film'])
model.rank(['a moving, funny film'], ['negative', 'positive'])
"""

from collections.abc import Sequence
import dataclasses
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params, predict
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved as saved_inserts
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import saved
from prompt_jax.prompts.attached import attached
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import features
from prompt_jax.training import state as states
from prompt_jax.training.step import Program

EOS = 1


@dataclasses.dataclass
class TunedModel:
  """A base and a prompt that can be asked.

  Attributes:
    model: the linen model. flat: its parameters {path: array}.
    encode, decode: text -> token ids (no EOS), token ids -> text.
    lengths: {'inputs': T, 'targets': U}, the longest, in tokens.
    batch_size: rows of a compiled batch.
  """

  model: PromptEncoderDecoder
  flat: params.Flat
  encode: callable
  decode: callable
  lengths: dict
  batch_size: int = 32

  def __post_init__(self):
    self._ranking = Program('ranking', predict.ranker(self.model))
    self._decoders: dict = {}

  def _batches(self, texts: Sequence[str]):
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
      batch = {
        'encoder_input_tokens': tokens,
        'task_ids': np.zeros(self.batch_size, np.int32),
      }
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
  ) -> list[str]:
    """The decoded target of each text.

    Args:
      texts: inputs.
      decoding: greedy unless said.
    """
    decoding = decoding or predict.Decoding()
    if decoding not in self._decoders:
      run = predict.decoder(self.model, self.lengths['targets'], decoding)
      self._decoders[decoding] = Program('decoding', run)
    said = []
    for real, batch in self._batches(texts):
      tokens, _ = self._decoders[decoding](self.flat, batch)
      for row in np.asarray(tokens)[:real, -1].tolist():
        said.append(self.decode(row[: row.index(EOS)] if EOS in row else row))
    return said

  def scores(self, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """log p(label | text), float32[len(texts), len(labels)]."""
    if not labels:
      raise UserError('There are no labels to rank; expected at least one.')
    rows = [[*self.encode(label), EOS] for label in labels]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, ids in enumerate(rows):
      tokens[i, : len(ids)] = ids
    parts = [
      np.asarray(self._ranking(self.flat, batch, tokens))[:real]
      for real, batch in self._batches(texts)
    ]
    return np.concatenate(parts or [np.zeros((0, len(labels)), np.float32)])

  def rank(self, texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The likeliest label of each text."""
    return [labels[i] for i in self.scores(texts, labels).argmax(axis=1)]


def load(
  base: str,
  prompt: str | Sequence[str] | None = None,
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
      stack; None is the base alone.
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
  return TunedModel(model, flat, encode, decode, lengths, batch_size)


def assemble(
  config: T5Config,
  base: str,
  prompt: str | Sequence[str] | None,
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
  for sidecar in (*given.sidecars, about):
    saved.check_base(sidecar, digest, known, allow=allow_other_base)
  for path, array in {**given.own, **own}.items():
    flat[path] = jnp.asarray(array)
  return model, flat, digest
