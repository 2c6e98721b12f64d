"""Adapter folders as PEFT writes them, made without PEFT."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from prompt_jax.errors import UserError
from prompt_jax.interop import peft

KEY = 'base_model.model.encoder.block.0.layer.0.SelfAttention.k'
WO = 'base_model.model.decoder.block.1.layer.2.DenseReluDense.wo'
LORA = {'r': 2, 'lora_alpha': 5}


def random(*shape, seed=3):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write(folder, kind, tensors, **config) -> str:
  """A folder with the two files of an adapter."""
  folder.mkdir()
  text = json.dumps({'peft_type': kind, 'task_type': 'SEQ_2_SEQ_LM', **config})
  (folder / 'adapter_config.json').write_text(text)
  save_file(tensors, folder / 'adapter_model.safetensors')
  return str(folder)


def prompt(folder, rows=7, **config) -> str:
  settings = {'num_virtual_tokens': 7, 'num_transformer_submodules': 1}
  tensors = {'prompt_embeddings': random(rows, 13)}
  return write(folder, 'PROMPT_TUNING', tensors, **settings | config)


def prefix(folder, layers=3, **config) -> str:
  settings = {
    'num_virtual_tokens': 7,
    'num_layers': layers,
    'token_dim': 15,
    'num_transformer_submodules': 2,
  }
  tensors = {'prompt_embeddings': random(7, 2 * layers * 15)}
  return write(folder, 'PREFIX_TUNING', tensors, **settings | config)


def ia3(folder, tensors=None) -> str:
  own = {f'{KEY}.ia3_l': random(15, 1), f'{WO}.ia3_l': random(1, 17)}
  return write(folder, 'IA3', tensors or own)


def lora(folder, extra=None, **config) -> str:
  tensors = {
    f'{KEY}.lora_A.weight': random(2, 13),
    f'{KEY}.lora_B.weight': random(15, 2),
    f'{WO}.lora_A.weight': random(2, 17),
    f'{WO}.lora_B.weight': random(13, 2),
    **(extra or {}),
  }
  return write(folder, 'LORA', tensors, **LORA | config)


def refuses(folder, *words):
  """Reading the folder raises a UserError that holds all the words."""
  with pytest.raises(UserError) as caught:
    peft.read(folder)
  for word in words:
    assert word in str(caught.value)
