"""T5 checkpoints in Hugging Face's layout: names, transposes, tied tables.

    ours [in, out] = theirs [out, in]^T      kernels and position tables
    ours           = theirs                  embedding and norm scales

A folder holds config.json and model.safetensors, or the shards that
model.safetensors.index.json names. Pickled weights are never opened.
Source: transformers, models/t5/modeling_t5.py; outputs agree with T5X.
"""

from collections.abc import Mapping
import json
import pathlib
import re
from typing import Any

import numpy as np
import safetensors

from prompt_jax.errors import UserError
from prompt_jax.t5.leaf import Leaf, dtype_named

EMBEDDING = 'token_embedder/embedding'
LOGITS = 'decoder/logits_dense/kernel'

# The embedding under all its names; old files repeat it.
_EMBEDDINGS = (
  'shared.weight',
  'encoder.embed_tokens.weight',
  'decoder.embed_tokens.weight',
)
_HEAD = 'lm_head.weight'

# Very old files: a table that T5 never used. Its decoder has no position bias
# in cross attention.
_UNUSED = re.compile(
  r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias'
  r'\.weight'
)

# (our path, their name, transposed); the braces hold what is copied over.
_WHOLE = {
  EMBEDDING: (_EMBEDDINGS[0], False),
  LOGITS: (_HEAD, True),
  'encoder/encoder_norm/scale': ('encoder.final_layer_norm.weight', False),
  'decoder/decoder_norm/scale': ('decoder.final_layer_norm.weight', False),
  **{
    f'{stack}/relpos_bias/rel_embedding': (
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      True,
    )
    for stack in ('encoder', 'decoder')
  },
}

# Within a layer: {stack: {our module: (number of their sublayer, its name)}}.
_SUBLAYERS = {
  'encoder': {
    'pre_attention_layer_norm': (0, 'layer_norm'),
    'attention': (0, 'SelfAttention'),
    'pre_mlp_layer_norm': (1, 'layer_norm'),
    'mlp': (1, 'DenseReluDense'),
  },
  'decoder': {
    'pre_self_attention_layer_norm': (0, 'layer_norm'),
    'self_attention': (0, 'SelfAttention'),
    'pre_cross_attention_layer_norm': (1, 'layer_norm'),
    'encoder_decoder_attention': (1, 'EncDecAttention'),
    'pre_mlp_layer_norm': (2, 'layer_norm'),
    'mlp': (2, 'DenseReluDense'),
  },
}
_KERNELS = {
  'attention': {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'},
  'mlp': {name: name for name in ('wi', 'wi_0', 'wi_1', 'wo')},
}


def _layer_names() -> dict[str, tuple[str, bool]]:
  """The names within layer {i}: {our path: (their name, transposed)}."""
  names = {}
  for stack, sublayers in _SUBLAYERS.items():
    for module, (number, theirs) in sublayers.items():
      ours = f'{stack}/layers_{{i}}/{module}'
      prefix = f'{stack}.block.{{i}}.layer.{number}.{theirs}'
      if theirs == 'layer_norm':
        names[f'{ours}/scale'] = (f'{prefix}.weight', False)
        continue
      kind = 'mlp' if module == 'mlp' else 'attention'
      for kernel, short in _KERNELS[kind].items():
        names[f'{ours}/{kernel}/kernel'] = (f'{prefix}.{short}.weight', True)
  return names


_LAYER = _layer_names()
_FROM_LAYER = {theirs: ours for ours, (theirs, _) in _LAYER.items()}
_FROM_WHOLE = {theirs: ours for ours, (theirs, _) in _WHOLE.items()}


def hf_name(path: str) -> tuple[str, bool] | None:
  """Our slash path -> (Hugging Face name, transposed), or None if it has none.

  Args:
    path: e.g. 'encoder/layers_3/attention/query/kernel'.
  Returns: e.g. ('encoder.block.3.layer.0.SelfAttention.q.weight', True).
  """
  if path in _WHOLE:
    return _WHOLE[path]
  layer = re.search(r'/layers_(\d+)/', path)
  if not layer:
    return None
  found = _LAYER.get(path.replace(layer[0], '/layers_{i}/', 1))
  return found and (found[0].replace('{i}', layer[1], 1), found[1])


def slash_path(name: str) -> str | None:
  """Hugging Face name -> our slash path; None if it has none. See `hf_name`."""
  if name in _FROM_WHOLE:
    return _FROM_WHOLE[name]
  block = re.search(r'\.block\.(\d+)\.', name)
  if not block:
    return None
  found = _FROM_LAYER.get(name.replace(block[0], '.block.{i}.', 1))
  return found and found.replace('{i}', block[1], 1)


class Shards:
  """The arrays of one or more safetensors files as one {name: array}.

  Args:
    folder: holds model.safetensors or model.safetensors.index.json.
  Attributes:
    shapes: {name: Leaf}, read from the headers.
  Raises: UserError if a file is missing or damaged.
  """

  def __init__(self, folder: str | pathlib.Path):
    folder = pathlib.Path(folder)
    index = folder / 'model.safetensors.index.json'
    if (folder / 'model.safetensors').is_file():
      files = [folder / 'model.safetensors']
    else:
      table = read_json(index).get('weight_map')
      if not isinstance(table, dict):
        raise UserError(
          f'{index} has no "weight_map"; expected {{name: file}} there. Copy '
          'the whole folder again.'
        )
      files = [folder / str(name) for name in sorted(set(table.values()))]
    self.shapes: dict[str, Leaf] = {}
    self._files: dict[str, Any] = {}
    for file in files:
      try:
        opened = safetensors.safe_open(file, framework='numpy')
        for name in opened.keys():
          self.shapes[name] = _leaf(opened.get_slice(name))
          self._files[name] = opened
      except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
          f'{file} could not be read: {type(error).__name__}: {error}. '
          'Expected a whole safetensors file; the copy broke off. Copy it '
          'again.'
        ) from error

  def read(self, name: str) -> np.ndarray:
    """One array whole, in the dtype it is stored in."""
    return self._files[name].get_tensor(name)


class Checkpoint:
  """A Hugging Face T5 folder under our slash paths; arrays read one by one.

  Args:
    folder: a local folder with config.json and safetensors.
  Attributes:
    config: config.json.
    shapes: {slash path: Leaf}, in our orientation; an array without a path of
      ours keeps its own name, so that it shows up as left over.
  Raises: UserError if a file is missing, pickled or damaged.
  """

  format = 'hf'

  def __init__(self, folder: str | pathlib.Path):
    self.path = str(folder)
    refuse_pickles(pathlib.Path(folder))
    self.config = read_json(pathlib.Path(folder) / 'config.json')
    self._shards = Shards(folder)
    names = self._shards.shapes
    self._is_tied = is_tied(self.config, names)
    tables = _EMBEDDINGS + ((_HEAD,) if self._is_tied else ())
    self._embeddings = [name for name in tables if name in names]
    self._names = {
      slash_path(name) or name: name
      for name in names
      if name not in self._embeddings and not _UNUSED.fullmatch(name)
    }
    if self._embeddings:
      self._names[EMBEDDING] = self._embeddings[0]
    self.shapes = {
      path: _oriented(names[name], path) for path, name in self._names.items()
    }

  @property
  def step(self) -> None:
    """Hugging Face folders do not say how long they were trained."""
    return None

  def read(self, path: str) -> np.ndarray:
    """One array by our slash path, in our orientation.

    Raises: UserError if the copies of the embedding are not equal.
    """
    array = self._shards.read(self._names[path])
    if path == EMBEDDING:
      self._check_copies(array)
    mapped = hf_name(path)
    return np.ascontiguousarray(array.T) if mapped and mapped[1] else array

  def _check_copies(self, embedding: np.ndarray) -> None:
    first, *copies = self._embeddings
    for name in copies:
      if np.array_equal(self._shards.read(name), embedding):
        continue
      advice = (
        'config.json says that the logits are tied to the embedding; set '
        '"tie_word_embeddings": false in it if this is a T5 1.1, mT5 or ByT5'
        if name == _HEAD
        else 'the encoder and decoder of T5 share one table; load and save '
        'the model with transformers'
      )
      raise UserError(
        f'{self.path} holds {name} with other values than {first}; expected '
        f'copies of one table: {advice}.'
      )


def is_tied(config: Mapping[str, Any], names) -> bool:
  """Whether the logits come from the embedding (T5 1.0).

  untied iff lm_head.weight is in the file and the config does not tie it

  Args:
    config: config.json. transformers >= 5 writes tie_word_embeddings true for
      every T5 and keeps the difference in scale_decoder_outputs, so the
      latter counts first; MT5Config left it out while false was its default.
    names: the names of the arrays in the file.
  Returns: True for T5 1.0.
  """
  default = config.get('model_type') != 'mt5'
  tied = config.get('tie_word_embeddings', default)
  tied = config.get('scale_decoder_outputs', tied)
  return bool(tied) or _HEAD not in names


def refuse_pickles(folder: pathlib.Path) -> None:
  """Raises UserError if `folder` has pickled weights and no safetensors."""
  if list(folder.glob('model*.safetensors*')):
    return
  kinds = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl', '*.pickle')
  pickles = sorted(file.name for kind in kinds for file in folder.glob(kind))
  if pickles:
    raise UserError(
      f'{folder} holds its weights as {", ".join(pickles[:3])}, which are '
      'pickles and can run code when they are opened; expected '
      'model.safetensors. Convert once where you trust the file: '
      'AutoModelForSeq2SeqLM.from_pretrained(folder).save_pretrained(new, '
      'safe_serialization=True).'
    )


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """A JSON object from a file; UserError if it is missing or not one."""
  try:
    content = json.loads(file.read_bytes())
  except (OSError, ValueError) as error:
    raise UserError(
      f'{file} could not be read: {type(error).__name__}: {error}. Expected '
      'a JSON object beside the weights; copy the whole folder again.'
    ) from error
  if not isinstance(content, dict):
    raise UserError(
      f'{file} holds a {type(content).__name__}; expected a JSON object. '
      'Copy the whole folder again.'
    )
  return content


# Names of dtypes in a safetensors header that a T5 is stored in.
_DTYPES = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16'}
_DTYPES |= {'BF16': 'bfloat16', 'I64': 'int64', 'I32': 'int32'}


def _leaf(stored) -> Leaf:
  name = stored.get_dtype()
  if name not in _DTYPES:
    raise ValueError(f'dtype {name} is not one of {", ".join(_DTYPES)}')
  return Leaf(tuple(stored.get_shape()), dtype_named(_DTYPES[name]))


def _oriented(leaf: Leaf, path: str) -> Leaf:
  mapped = hf_name(path)
  return Leaf(leaf.shape[::-1], leaf.dtype) if mapped and mapped[1] else leaf


def shapes(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of T5Config that a Hugging Face config.json gives.

  Args:
    config: the parsed config.json of a T5, T5 1.1, mT5 or ByT5.
  Raises: UserError if it is of another kind of model.
  """
  if config.get('model_type') not in ('t5', 'mt5'):
    raise UserError(
      f'config.json has model_type {config.get("model_type")!r}; expected '
      "'t5' or 'mt5' (T5, T5 1.1, mT5, ByT5)."
    )
  gated = 'gated' in config.get('feed_forward_proj', 'relu')
  layers = config['num_layers']
  return {
    'vocab_size': config['vocab_size'],
    'd_model': config['d_model'],
    'd_kv': config['d_kv'],
    'd_ff': config['d_ff'],
    'num_heads': config['num_heads'],
    'num_encoder_layers': layers,
    'num_decoder_layers': config.get('num_decoder_layers') or layers,
    'mlp_activations': ('gelu', 'linear') if gated else ('relu',),
    'tied_logits': is_tied(config, (_HEAD,)),
    'relpos_num_buckets': config.get('relative_attention_num_buckets', 32),
    'relpos_max_distance': config.get('relative_attention_max_distance', 128),
    'layer_norm_epsilon': config.get('layer_norm_epsilon', 1e-6),
  }
