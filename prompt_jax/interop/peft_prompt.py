"""Prompts of PEFT: one tensor `prompt_embeddings`, [P,H] or [2P,H].

PEFT makes a table of 2P rows for an encoder and a decoder, but its forward
pass puts the first P before the encoder's input and never reads the others.
Source: peft 0.21, peft_model.py, PeftModelForSeq2SeqLM.forward.
"""

from collections.abc import Mapping
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.interop.content import Prompt

_TENSOR = 'prompt_embeddings'
_LENGTH, _PARTS = 'num_virtual_tokens', 'num_transformer_submodules'

# What a sidecar says of a prompt where PEFT would put it.
_PLACE = {'stack': 'encoder', 'depth': 1, 'where': 'prefix', 'attention': None}


def read(
  config: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> Prompt:
  """The prompt of an adapter.

  Args:
    config: adapter_config.json. tensors: {name: array}.
    where: the folder, for errors.
  Raises: UserError if tensor and config do not agree.
  """
  length, parts = config.get(_LENGTH), config.get(_PARTS)
  if type(length) is not int or parts not in (None, 1, 2):
    raise UserError(
      f'{where} has {_LENGTH} {length!r} and {_PARTS} {parts!r}; expected a '
      'number of positions and 1 or 2. Correct adapter_config.json.'
    )
  found = {name: list(array.shape) for name, array in tensors.items()}
  array = tensors.get(_TENSOR)
  rows = [length * n for n in ((parts,) if parts else (1, 2))]
  if array is None or array.ndim != 2 or array.shape[0] not in rows:
    raise UserError(
      f'{where} holds {found}; expected {_TENSOR} with '
      f'{" or ".join(map(str, rows))} rows, {_LENGTH} {length} times {_PARTS} '
      f'{parts}. The folder was put together from two adapters: save it again.'
    )
  if array.shape[0] == length:
    return Prompt(array)
  note = (
    f'{where} has {array.shape[0]} rows, {length} for the encoder and as many '
    'for the decoder; the first are kept, the others PEFT never uses.'
  )
  return Prompt(array[:length], notes=(note,))


def write(content: Prompt, where: str):
  """(config, {name: array}) of an adapter that holds a prompt.

  Raises: UserError for a prompt that stands elsewhere than before the input
    of the encoder, as its sidecar tells.
  """
  place = {name: content.about.get(name, at) for name, at in _PLACE.items()}
  if place != _PLACE:
    raise UserError(
      f'The prompt for {where} has the place {place}; expected {_PLACE}, '
      "before the encoder's input and in no deeper layer, all that a prompt "
      'of PEFT can be. Keep the .npy file.'
    )
  length, width = content.array.shape
  config = {
    'peft_type': 'PROMPT_TUNING',
    'prompt_tuning_init': 'RANDOM',
    _LENGTH: length,
    'token_dim': width,
    _PARTS: 1,
  }
  return config, {_TENSOR: content.array}
