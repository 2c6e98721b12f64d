"""Sites: the named places inside the layers where an insert can stand.

An insert is a linen module `(y, x) -> y'`, y what the site produced and x
what it consumed. Sites are addressed by slash path and full-match regex:

    {encoder,decoder}/layers_i/<attention>/{query,key,value,out}
    {encoder,decoder}/layers_i/mlp/{wi | wi_0, wi_1, hidden, wo}

with <attention> `attention` in the encoder, `self_attention` and
`encoder_decoder_attention` in the decoder, the latter where there is an
encoder. The parameters of an insert live beside what it modifies:
`encoder/layers_3/attention/key_insert/...`.
"""

from collections.abc import Callable, Sequence
import re

import flax.linen as nn

from prompt_jax import params
from prompt_jax.t5.config import T5Config
from prompt_jax.typing import Array

# Ordered (site pattern, factory of the insert module).
Inserts = Sequence[tuple[str, Callable[..., nn.Module]]]

_ATTENTION = ('query', 'key', 'value', 'out')


def sites(config: T5Config) -> list[str]:
  """Every site path of a model of this configuration."""
  wi = ('wi_0', 'wi_1') if config.is_gated else ('wi',)
  mlp = [f'mlp/{name}' for name in (*wi, 'hidden', 'wo')]
  cross = ['encoder_decoder_attention'] if config.num_encoder_layers else []
  stacks = (
    ('encoder', config.num_encoder_layers, ['attention']),
    ('decoder', config.num_decoder_layers, ['self_attention', *cross]),
  )
  return [
    f'{stack}/layers_{i}/{place}'
    for stack, layers, attentions in stacks
    for i in range(layers)
    for place in [f'{a}/{s}' for a in attentions for s in _ATTENTION] + mlp
  ]


def select(inserts: Inserts, config: T5Config) -> list[list[str]]:
  """The sites each insert meets, in the order of `inserts`.

  Raises: UserError if a pattern meets no site (shows the nearest).
  """
  found = sites(config)
  return [params.match(pattern, found, 'inserts') for pattern, _ in inserts]


def site(module: nn.Module, name: str, y: Array, x: Array) -> Array:
  """Passes y through the inserts that stand at `name` of `module`.

  Called inside a compact method of a module with an `inserts` attribute.
  """
  path = '/'.join((*module.path, name))
  met = [make for at, make in module.inserts if re.fullmatch(at, path)]
  for i, make in enumerate(met):
    y = make(name=f'{name}_insert' + (f'_{i}' if i else ''))(y, x)
  return y
