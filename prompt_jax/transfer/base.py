"""A base read once, to be asked with many prompts."""

import dataclasses
import os
from typing import Any

import jax.numpy as jnp

from prompt_jax import params, tuned
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.sites import Inserts
from prompt_jax.tasks import features
from prompt_jax.transfer.shelf import Shelf


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
  """A frozen base.

  Attributes:
    name: shipped name or folder.
    config: its shapes.
    flat: its parameters {path: array}.
    digest: of its checkpoint.
    vocabulary: SentencePiece .model, 'bytes' or 'shipped'.
  """

  name: str
  config: T5Config
  flat: params.Flat
  digest: str
  vocabulary: str = 'shipped'

  @property
  def vocabulary_digest(self) -> str:
    return features.vocabulary_digest(self.vocabulary)

  def sidecar(self) -> dict[str, Any]:
    """What a prompt of this base says of it."""
    return {
      'base': os.path.basename(str(self.name).rstrip('/')),
      'base_digest': self.digest,
      'vocabulary_digest': self.vocabulary_digest,
    }

  def prompted(
    self, shelf: Shelf, inserts: Inserts = (), allow_other_base: bool = False
  ) -> tuple[PromptEncoderDecoder, params.Flat]:
    """The base with the prompts of a shelf, one a task id.

    Args:
      shelf: the prompts.
      inserts: of the model; their parameters are not in the result.
      allow_other_base: accept prompts of another base.
    Returns: (model, {path: array}).
    Raises: UserError for prompts of another width or base.
    """
    if shelf.width != self.config.d_model:
      raise UserError(
        f'The prompts are {list(shelf.prompts.shape[1:])}; expected '
        f'[P, {self.config.d_model}], as wide as the base {self.name}. Take '
        'the base they were trained on, or project them to this one: '
        'prompt-jax transfer project.'
      )
    known = (self.digest, self.vocabulary_digest)
    shelf.check_base(*known, allow_other_base)
    fields, own = shelf.attach()
    model = PromptEncoderDecoder(self.config, inserts, **fields)
    own = {path: jnp.asarray(array) for path, array in own.items()}
    return model, {**self.flat, **own}


def load(
  name: str, vocabulary: str | None = None, activation_dtype: str = 'float32'
) -> Base:
  """Reads a base.

  Args:
    name: a shipped name ('mini') or the folder of a checkpoint.
    vocabulary: as for `prompt_jax.load`; None takes `spiece.model` beside the
      base, else the shipped one.
    activation_dtype: of its products.
  Raises: UserError if there is no such base.
  """
  folder = pretrained.resolve(name)
  config = pretrained.config_of(folder, activation_dtype)
  if vocabulary is None:
    beside = os.path.join(folder, 'spiece.model')
    vocabulary = beside if os.path.isfile(beside) else 'shipped'
  _, flat, digest = tuned.assemble(config, folder, None, vocabulary)
  return Base(name, config, flat, digest, vocabulary)
