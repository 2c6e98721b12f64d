"""Adapter folders of PEFT, for T5.

    adapter_config.json         what kind of adapter, and its settings
    adapter_model.safetensors   its tensors; .bin, a pickle, in old ones

Read and written: prompts, prefixes, IA3 and LoRA. PEFT is not imported.
Source: peft 0.21, utils/save_and_load.py and the tuners' config.py.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from prompt_jax.errors import UserError
from prompt_jax.interop import peft_ia3, peft_lora, peft_prefix, peft_prompt
from prompt_jax.interop.content import Inserts, Prompt
from prompt_jax.interop.torch_file import TorchFile
from prompt_jax.t5 import hf_checkpoint

CONFIG = 'adapter_config.json'
_WEIGHTS, _OLD_WEIGHTS = 'adapter_model.safetensors', 'adapter_model.bin'

_READERS = {
  'PROMPT_TUNING': peft_prompt.read,
  'P_TUNING': peft_prompt.read,  # saved with its network folded in
  'PREFIX_TUNING': peft_prefix.read,
  'IA3': peft_ia3.read,
  'LORA': peft_lora.read,
}
_WRITERS = {
  'IA3': peft_ia3.write,
  'LoRA': peft_lora.write,
  'KeyValues': peft_prefix.write,
}

# Why the others that people bring cannot be had.
_NO_FORM = {
  'MULTITASK_PROMPT_TUNING': 'Its prompt is a product that depends on the '
  'task. Train methods/mpt.gin, or save the product of each task as .npy.',
  'ADALORA': 'Load it in PEFT, merge it, and use the merged model as a base.',
}
_TASK = 'SEQ_2_SEQ_LM'


def read(folder: str | os.PathLike) -> Prompt | Inserts:
  """The adapter in a folder of PEFT.

  Raises: UserError if a file is missing or damaged, or the adapter is of a
    kind, or has a setting, that nothing here can hold.
  """
  folder = pathlib.Path(folder)
  config = hf_checkpoint.read_json(folder / CONFIG)
  kind = config.get('peft_type')
  if kind not in _READERS:
    raise UserError(
      f'{folder} has peft_type {kind!r}; expected one of '
      f'{", ".join(_READERS)}. {_NO_FORM.get(kind, "")}'.rstrip()
    )
  if config.get('task_type') not in (None, _TASK):
    raise UserError(
      f'{folder} has task_type {config["task_type"]!r}; expected {_TASK!r}, '
      'that of T5 with its decoder. Give an adapter of such a model.'
    )
  content = _READERS[kind](config, _tensors(folder), str(folder))
  base = config.get('base_model_name_or_path')
  if base:
    content.about['base'] = base
  return content


def write(
  folder: str | os.PathLike, content: Prompt | Inserts, base: str | None
) -> str:
  """Writes an adapter folder, whole or not at all.

  Args:
    folder: to make; must not exist.
    content: a prompt of the encoder's input, or inserts of one kind.
    base: put down as base_model_name_or_path, which AutoPeftModel loads.
  Returns: the folder.
  Raises: UserError if the folder exists or PEFT has no form for the content.
  """
  folder = pathlib.Path(folder)
  if folder.exists():
    raise UserError(
      f'{folder} exists; expected a new name for the adapter. Delete it or '
      'choose another name.'
    )
  make = peft_prompt.write
  if isinstance(content, Inserts):
    make = _WRITERS[_kind(content, folder)]
  config, tensors = make(content, str(folder))
  config |= {
    'base_model_name_or_path': base,
    'task_type': _TASK,
    'inference_mode': True,
  }
  # renaming is atomic only within one file system, hence a sibling
  part = folder.with_name(f'.{folder.name}.{os.getpid()}.new')
  part.mkdir(parents=True)
  try:
    text = json.dumps(config, indent=2, sort_keys=True) + '\n'
    (part / CONFIG).write_text(text)
    arrays = {n: np.array(x, np.float32, order='C') for n, x in tensors.items()}
    save_file(arrays, part / _WEIGHTS, {'format': 'pt'})
    (part / _WEIGHTS).chmod(0o644)  # the library writes 0600
    part.rename(folder)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise
  return str(folder)


def _kind(content: Inserts, folder) -> str:
  """The one type of all inserts, if PEFT knows it."""
  sites = content.by_site(str(folder)).values()
  kinds = sorted({settings['type'] for settings, _ in sites})
  if len(kinds) != 1 or kinds[0] not in _WRITERS:
    raise UserError(
      f'The inserts for {folder} are {", ".join(kinds)}; expected only one '
      f'of {", ".join(_WRITERS)}, which PEFT has a form for. Keep inserts.npz, '
      'or train methods/lora.gin or methods/ia3.gin.'
    )
  return kinds[0]


def _tensors(folder: pathlib.Path) -> Mapping[str, Any]:
  """{name: array} of an adapter's weights."""
  file = folder / _WEIGHTS
  if not file.is_file() and (folder / _OLD_WEIGHTS).is_file():
    stored = TorchFile(folder / _OLD_WEIGHTS)
    return {name: stored.read(name) for name in stored.tensors}
  try:
    with safetensors.safe_open(file, framework='numpy') as stored:
      return {name: stored.get_tensor(name) for name in stored.keys()}
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise UserError(
      f'{file} could not be read: {type(error).__name__}: {error}. Expected '
      'the whole safetensors file of the adapter; copy the folder again.'
    ) from error
