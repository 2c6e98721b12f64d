"""What size of T5 a tree of shapes is, in the words of the gin files."""

from collections.abc import Mapping
import re
from typing import Any

from prompt_jax.t5.hf_checkpoint import EMBEDDING

# (EMBED_DIM, MLP_DIM) -> model file; the pair is unique among the public
# models. T5 1.1 and mT5 differ in the vocabulary alone.
# Source: t5x/examples/t5/{t5_1_0,t5_1_1,mt5,byt5}/*.gin
_T5_1_1 = {
  (512, 1024): 'small',
  (768, 2048): 'base',
  (1024, 2816): 'large',
  (2048, 5120): 'xl',
  (4096, 10240): 'xxl',
}
_MODELS = {
  (512, 2048): 't5_small',
  (768, 3072): 't5_base',
  (1024, 4096): 't5_large',
  (1024, 16384): 't5_3b',
  (1024, 65536): 't5_11b',
  (1472, 3584): 'byt5_small',
  (1536, 3968): 'byt5_base',
  (1536, 3840): 'byt5_large',
  (2560, 6720): 'byt5_xl',
  (4672, 12352): 'byt5_xxl',
}
_MT5_ROWS = 250112  # 250,100 pieces and sentinels, rounded up to 128


def sizes(shapes: Mapping[str, Any]) -> dict[str, int]:
  """The size of a T5 by its gin macros, as far as its shapes tell.

  Args:
    shapes: {slash path: anything with .shape}.
  Returns: e.g. {'NUM_EMBEDDINGS': 32128, 'EMBED_DIM': 512, ...}; a macro
    whose array is absent is left out.
  """
  found = {}
  first = 'encoder/layers_0'
  for macro, key, axis in (
    ('NUM_EMBEDDINGS', EMBEDDING, 0),
    ('EMBED_DIM', EMBEDDING, 1),
    ('MLP_DIM', f'{first}/mlp/wo/kernel', 0),
    ('NUM_HEADS', 'encoder/relpos_bias/rel_embedding', 0),
    ('HEAD_DIM', f'{first}/attention/out/kernel', 0),
  ):
    if key in shapes and len(shapes[key].shape) > axis:
      found[macro] = int(shapes[key].shape[axis])
  if 'HEAD_DIM' in found and found.get('NUM_HEADS'):
    found['HEAD_DIM'] //= found['NUM_HEADS']  # the kernel joins all heads
  for stack in ('encoder', 'decoder'):
    layer = rf'{stack}/layers_(\d+)/'
    numbers = {m[1] for key in shapes if (m := re.match(layer, key))}
    found[f'NUM_{stack.upper()}_LAYERS'] = len(numbers)
  return found


def model_file(sizes: Mapping[str, int]) -> str | None:
  """The name of the public model of these sizes ('t5_1_1_base'), or None."""
  pair = sizes.get('EMBED_DIM'), sizes.get('MLP_DIM')
  if pair in _T5_1_1:
    is_mt5 = sizes.get('NUM_EMBEDDINGS') == _MT5_ROWS
    return f'{"mt5" if is_mt5 else "t5_1_1"}_{_T5_1_1[pair]}'
  return _MODELS.get(pair)
