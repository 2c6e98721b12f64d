"""Prefix tuning of PEFT: one tensor `prompt_embeddings`, [P, 2 L N K].

    entry e of a row [2 L, N K]     e = 4 i mod 2 L        keys of layer i
                                    e = 4 i + 1 mod 2 L    values of layer i

PEFT makes 2 L entries for the decoder's self attention and as many for its
cross attention out of the same 2 L, lays both behind one another, gives four
to each layer and drops the latter two. So with an even L layers i and i + L/2
share theirs, and half of the tensor is never read.
Source: peft 0.21, peft_model.py, PeftModel.get_prompt.
"""

from collections.abc import Mapping
import functools
from typing import Any

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.inserts.key_values import KeyValues
from prompt_jax.interop import modules
from prompt_jax.interop.content import Inserts

_TENSOR = 'prompt_embeddings'
_LENGTH, _LAYERS, _WIDTH = 'num_virtual_tokens', 'num_layers', 'token_dim'
_PARTS = 'num_transformer_submodules'
_SITE = 'decoder/layers_{}/self_attention/ahead'


def _entries(layer: int, layers: int) -> dict[str, int]:
  """Where the keys and the values of a layer lie in a row."""
  first = 4 * layer % (2 * layers)
  return {'keys': first, 'values': first + 1}


def read(
  config: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> Inserts:
  """The keys and values of an adapter.

  Args: see `peft_prompt.read`.
  Raises: UserError if tensor and config do not agree.
  """
  sizes = {name: config.get(name) for name in (_LENGTH, _LAYERS, _WIDTH)}
  bad = [n for n, size in sizes.items() if type(size) is not int or size < 1]
  if bad or config.get(_PARTS) != 2:
    raise UserError(
      f'{where} has {sizes} and {_PARTS} {config.get(_PARTS)!r}; expected '
      'numbers above 0 and 2, an encoder and a decoder. Correct '
      'adapter_config.json.'
    )
  length, layers, width = sizes.values()
  found = {name: list(array.shape) for name, array in tensors.items()}
  if found != {_TENSOR: [length, 2 * layers * width]}:
    raise UserError(
      f'{where} holds {found}; expected only {_TENSOR} '
      f'[{length}, {2 * layers * width}], {_LENGTH} and 2 {_LAYERS} {_WIDTH}. '
      'The folder was put together from two adapters: save it again.'
    )
  rows = tensors[_TENSOR].reshape(length, 2 * layers, width)
  arrays = {
    f'{_SITE.format(i)}_insert/{name}': rows[:, entry]
    for i in range(layers)
    for name, entry in _entries(i, layers).items()
  }
  make = functools.partial(KeyValues, length=length)
  sites = [_SITE.format(i) for i in range(layers)]
  table = tuple((at, make) for at in modules.patterns(sites))
  return Inserts(table, arrays)


def write(content: Inserts, where: str):
  """(config, {name: array}) of an adapter that holds keys and values.

  Raises: UserError for rows elsewhere than in the decoder's self attention,
    for layers without any, and for two layers that PEFT gives the same rows
    and that differ.
  """
  own = {site: arrays for site, (_, arrays) in content.by_site(where).items()}
  layers = len(own)
  wanted = [_SITE.format(i) for i in range(layers)]
  shapes = {array.shape for arrays in own.values() for array in arrays.values()}
  if sorted(own) != sorted(wanted) or len(shapes) != 1:
    raise UserError(
      f'The rows for {where} are at {", ".join(own)} with shapes '
      f'{sorted(map(list, shapes))}; expected as many in the self attention '
      'of every layer of the decoder, and there alone. Keep inserts.npz, or '
      'train methods/prefix.gin with '
      '--gin.AHEAD="\'decoder/.*/self_attention/ahead\'".'
    )
  ((length, width),) = shapes
  rows = np.zeros((length, 2 * layers, width), np.float32)
  taken: dict[int, int] = {}
  for i, site in enumerate(wanted):
    for name, entry in _entries(i, layers).items():
      if entry in taken and not np.array_equal(rows[:, entry], own[site][name]):
        raise UserError(
          f'Layers {taken[entry]} and {i} of the rows for {where} differ; '
          f'expected the same {name}, for PEFT gives layers i and i + '
          f'{layers // 2} of {layers} one pair. Keep inserts.npz.'
        )
      rows[:, entry], taken[entry] = own[site][name], i
  config = {
    'peft_type': 'PREFIX_TUNING',
    'prefix_projection': False,
    _LENGTH: length,
    _LAYERS: layers,
    _WIDTH: width,
    _PARTS: 2,
  }
  return config, {_TENSOR: rows.reshape(length, -1)}
