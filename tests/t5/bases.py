"""Small bases on disk, in the layouts of T5X and Hugging Face."""

import json

from flax import serialization
import numpy as np
import pytest
from safetensors.numpy import save_file
import tensorstore as ts

from prompt_jax.errors import UserError
from prompt_jax.t5 import hf_checkpoint
from prompt_jax.t5.leaf import Leaf

V, H, K, N, F = 13, 7, 3, 5, 11  # distinct primes
EMBEDDING = 'token_embedder/embedding'
LOGITS = 'decoder/logits_dense/kernel'
QUERY = 'encoder/layers_0/attention/query/kernel'
SHARED, HEAD = 'shared.weight', 'lm_head.weight'


def base_shapes(gated=True, layers=(2, 3), vocab=V, width=H):
  """{slash path: shape} of a small T5 1.1, or 1.0 if not gated."""
  shapes = {EMBEDDING: (vocab, width)}
  if gated:
    shapes[LOGITS] = (width, vocab)
  attentions = {
    'encoder': ('attention',),
    'decoder': ('self_attention', 'encoder_decoder_attention'),
  }
  norms = {
    'encoder': ('attention', 'mlp'),
    'decoder': ('self_attention', 'cross_attention', 'mlp'),
  }
  for stack, count in zip(('encoder', 'decoder'), layers, strict=True):
    shapes[f'{stack}/relpos_bias/rel_embedding'] = (N, 32)
    shapes[f'{stack}/{stack}_norm/scale'] = (width,)
    for i in range(count):
      layer = f'{stack}/layers_{i}'
      for norm in norms[stack]:
        shapes[f'{layer}/pre_{norm}_layer_norm/scale'] = (width,)
      for attention in attentions[stack]:
        for name in ('query', 'key', 'value'):
          shapes[f'{layer}/{attention}/{name}/kernel'] = (width, N * K)
        shapes[f'{layer}/{attention}/out/kernel'] = (N * K, width)
      for name in ('wi_0', 'wi_1') if gated else ('wi',):
        shapes[f'{layer}/mlp/{name}/kernel'] = (width, F)
      shapes[f'{layer}/mlp/wo/kernel'] = (F, width)
  return shapes


def weights(**sizes):
  rng = np.random.default_rng(17)
  return {
    path: rng.normal(size=shape).astype(np.float32)
    for path, shape in base_shapes(**sizes).items()
  }


def expected(**sizes):
  shapes = base_shapes(**sizes)
  return {path: Leaf(s, np.dtype('float32')) for path, s in shapes.items()}


def write_zarr(folder, array):
  """A gzip zarr array of two chunks along axis 0; returns T5X's placeholder."""
  dtype = 'bfloat16' if array.dtype.kind == 'V' else array.dtype.str
  metadata = {
    'shape': list(array.shape),
    'chunks': [-(-array.shape[0] // 2), *array.shape[1:]],
    'dtype': dtype,
    'compressor': {'id': 'gzip', 'level': 1},
  }
  kvstore = {'driver': 'file', 'path': f'{folder}/'}
  spec = {'driver': 'zarr', 'kvstore': kvstore, 'metadata': metadata}
  ts.open(spec, create=True).result().write(array).result()
  return metadata


def write_native(folder, arrays, *, top_level=False, version=3, step=41):
  """A native checkpoint: matrices in zarr folders, the rest inline."""
  folder.mkdir(parents=True)
  target = {}
  for path, array in arrays.items():
    *parents, name = path.split('/')
    node = target
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = array
    if array.ndim == 2:
      place = 'target.' + path.replace('/', '.')
      metadata = write_zarr(folder / place, array)
      kvstore = {'driver': 'gcs', 'bucket': 't5x-dummy-bucket'}
      leaf = {'driver': 'zarr', 'kvstore': kvstore, 'metadata': metadata}
      (leaf if top_level else kvstore)['path'] = place
      node[name] = leaf
  slots = {'prompt': {'v': np.ones((1,), np.float32)}, 'unowned': None}
  state = {'step': np.int32(step), 'param_states': slots}
  tree = {'version': version, 'optimizer': {'target': target, 'state': state}}
  index = serialization.msgpack_serialize(tree)
  (folder / 'checkpoint').write_bytes(index)
  return str(folder)


def write_hf(folder, arrays, config=None, extra=None, shards=1):
  """A Hugging Face folder with `arrays` under its names."""
  folder.mkdir()
  stored = {}
  for path, array in arrays.items():
    name, transposed = hf_checkpoint.hf_name(path)
    stored[name] = np.ascontiguousarray(array.T if transposed else array)
  stored.update(extra or {})
  if config is None:
    config = {'tie_word_embeddings': LOGITS not in arrays}
  (folder / 'config.json').write_text(json.dumps(config))
  if shards == 1:
    save_file(stored, folder / 'model.safetensors')
    return str(folder)
  names = sorted(stored)
  files = {n: f'model-{i % shards}.safetensors' for i, n in enumerate(names)}
  for file in set(files.values()):
    part = {name: stored[name] for name in names if files[name] == file}
    save_file(part, folder / file)
  index = json.dumps({'weight_map': files})
  (folder / 'model.safetensors.index.json').write_text(index)
  return str(folder)


def assert_equal(found, wanted):
  assert found.keys() == wanted.keys()
  for key in wanted:
    assert found[key].dtype == wanted[key].dtype, key
    np.testing.assert_array_equal(found[key], wanted[key], err_msg=key)


def fails(call, *texts):
  """The call raises a UserError that holds all the texts."""
  with pytest.raises(UserError) as caught:
    call()
  for text in texts:
    assert text in str(caught.value)
