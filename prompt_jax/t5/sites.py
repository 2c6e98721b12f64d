"""Sites: the named places inside the layers where an insert can stand.

An insert is a linen module `(y, x) -> y'`, y what the site produced and x
what it consumed. Sites are addressed by slash path and full-match regex:

    {encoder,decoder}/layers_i/<attention>/{query,key,value,ahead,out}
    {encoder,decoder}/layers_i/mlp/{wi | wi_0, wi_1, hidden, wo}

with <attention> `attention` in the encoder, `self_attention` and
`encoder_decoder_attention` in the decoder, the latter where there is an
encoder. `ahead` is where keys and values can stand before those of the input:
y is [1,0,2 N K] there, no rows. Only inserts that say `is_rows` stand there,
and nowhere else; a decoder-only model, whose rows begin with padding, has no
such site. The parameters of an insert live beside what it modifies:
`encoder/layers_3/attention/key_insert/...`.
"""

from collections.abc import Callable, Sequence
import re

import flax.linen as nn

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5.config import T5Config
from prompt_jax.typing import Array

# Ordered (site pattern, factory of the insert module).
Inserts = Sequence[tuple[str, Callable[..., nn.Module]]]

_ATTENTION = ('query', 'key', 'value', 'ahead', 'out')


def sites(config: T5Config) -> list[str]:
  """Every site path of a model of this configuration."""
  wi = ('wi_0', 'wi_1') if config.is_gated else ('wi',)
  mlp = [f'mlp/{name}' for name in (*wi, 'hidden', 'wo')]
  both = config.num_encoder_layers > 0
  cross = ['encoder_decoder_attention'] if both else []
  stacks = (
    ('encoder', config.num_encoder_layers, ['attention']),
    ('decoder', config.num_decoder_layers, ['self_attention', *cross]),
  )
  return [
    f'{stack}/layers_{i}/{place}'
    for stack, layers, attentions in stacks
    for i in range(layers)
    for place in [f'{a}/{s}' for a in attentions for s in _ATTENTION] + mlp
    if both or not place.endswith('/ahead')
  ]


def _at(make: Callable[..., nn.Module], path: str) -> bool:
  """Whether an insert of this kind can stand at a site: rows go ahead."""
  is_rows = getattr(make(parent=None), 'is_rows', False)
  return is_rows == path.endswith('/ahead')


def select(inserts: Inserts, config: T5Config) -> list[list[str]]:
  """The sites each insert meets, in the order of `inserts`.

  Raises: UserError if a pattern meets no site (shows the nearest), or an
    insert is no pair.
  """
  found = sites(config)
  for pair in inserts:
    is_pair = isinstance(pair, Sequence) and len(pair) == 2
    if not is_pair or not isinstance(pair[0], str) or not callable(pair[1]):
      raise UserError(
        f'inserts has {pair!r}; expected pairs of a site pattern and a module, '
        "such as [('.*/(query|value)', @inserts.LoRA)]."
      )
  return [
    params.match(pattern, [at for at in found if _at(make, at)], 'inserts')
    for pattern, make in inserts
  ]


def standing(inserts: Inserts, path: str) -> list[Callable[..., nn.Module]]:
  """Factories of the inserts at a site path."""
  return [
    make
    for pattern, make in inserts
    if re.fullmatch(pattern, path) and _at(make, path)
  ]


def site(module: nn.Module, name: str, y: Array, x: Array) -> Array:
  """Passes y through the inserts that stand at `name` of `module`.

  Called inside a compact method of a module with an `inserts` attribute.
  """
  path = '/'.join((*module.path, name))
  for i, make in enumerate(standing(module.inserts, path)):
    y = make(name=f'{name}_insert' + (f'_{i}' if i else ''))(y, x)
  return y


def changes_keys(inserts: Inserts, attention: str) -> bool:
  """Whether an insert stands at keys or values, or rows ahead of them.

  Args:
    inserts: of the model.
    attention: path of an attention.
  """
  return any(
    standing(inserts, f'{attention}/{name}')
    for name in ('key', 'value', 'ahead')
  )


def rows_ahead(inserts: Inserts, stack: str, layers: int) -> int:
  """Most rows that a self attention of a stack has ahead of its keys.

  Args:
    inserts: of the model.
    stack: 'encoder' or 'decoder'.
    layers: that it has.
  """
  attention = {'encoder': 'attention', 'decoder': 'self_attention'}[stack]
  paths = [f'{stack}/layers_{i}/{attention}/ahead' for i in range(layers)]
  lengths = [
    sum(make(parent=None).length for make in standing(inserts, path))
    for path in paths
  ]
  return max(lengths, default=0)
