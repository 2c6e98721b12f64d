"""Modules of a Hugging Face T5 and the sites here, name by name.

    encoder.block.3.layer.0.SelfAttention.q    encoder/layers_3/attention/query
    ...DenseReluDense.wo, what it gives        .../mlp/wo
    ...DenseReluDense.wo, what it reads        .../mlp/hidden

Source: transformers, models/t5/modeling_t5.py.
"""

from collections.abc import Iterable, Mapping
import re
from typing import Any

from prompt_jax.t5 import hf_checkpoint

_HIDDEN, _WO = 'mlp/hidden', 'mlp/wo'


def site_of(module: str, reads: bool = False) -> str | None:
  """The site of a module, None if it has none.

  Args:
    module: such as 'encoder.block.3.layer.0.SelfAttention.q'.
    reads: what the module consumes, not what it produces.
  """
  path = hf_checkpoint.slash_path(f'{module}.weight') or ''
  site, _, leaf = path.rpartition('/')
  if leaf != 'kernel' or '/layers_' not in site:
    return None
  if not reads:
    return site
  return site[: -len(_WO)] + _HIDDEN if site.endswith(_WO) else None


def module_of(site: str) -> tuple[str, bool]:
  """(module, whether the site is what it reads) of a site."""
  reads = site.endswith(_HIDDEN)
  own = site[: -len(_HIDDEN)] + _WO if reads else site
  name, _ = hf_checkpoint.hf_name(f'{own}/kernel')
  return name.removesuffix('.weight'), reads


def patterns(sites: Iterable[str]) -> list[str]:
  """Regular expressions that match these sites and no other, few and short."""
  numbers: dict[tuple[str, str], set[int]] = {}
  for site in sites:
    stack, layer, place = site.split('/', 2)
    number = int(layer.removeprefix('layers_'))
    numbers.setdefault((stack, place), set()).add(number)
  places: dict[tuple[str, tuple[int, ...]], list[str]] = {}
  for (stack, place), met in sorted(numbers.items()):
    places.setdefault((stack, tuple(sorted(met))), []).append(place)
  either = lambda names: '|'.join(map(str, names))
  return [
    f'{stack}/layers_({either(met)})/({either(names)})'
    for (stack, met), names in places.items()
  ]


def setting(table: Mapping[str, Any] | None, module: str, default: Any) -> Any:
  """What a table {pattern: value} of PEFT says of a module.

  Source: peft, utils/other.py, get_pattern_key.
  """
  for pattern, value in (table or {}).items():
    if re.match(rf'(.*\.)?({pattern})$', module):
      return value
  return default
