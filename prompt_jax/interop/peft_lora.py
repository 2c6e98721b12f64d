"""LoRA of PEFT: `<module>.lora_A.weight` [r,in], `.lora_B.weight` [out,r].

    y' = y + scale * B (A x)        here: y + alpha / r * (x A) B
    scale = lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora

Source: peft 0.21, tuners/lora/layer.py.
"""

import collections
from collections.abc import Mapping
import functools
import math
import re
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.inserts.lora import LoRA
from prompt_jax.interop import modules
from prompt_jax.interop.content import Inserts

_PART = re.compile(r'base_model\.model\.(.+)\.lora_([AB])\.weight')

# Settings that change what the two matrices mean.
_OTHER_FORMULA = (
  *('use_dora', 'use_qalora', 'use_bdlora', 'layer_replication'),
  *('alora_invocation_tokens', 'arrow_config', 'kasa_config'),
  'monteclora_config',
)
# Initial values that leave the base as it is; others ('pissa', 'olora', ...)
# take away from it what the adapter then holds.
_PLAIN_STARTS = (True, False, None, 'gaussian', 'eva', 'orthogonal')


def read(
  config: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> Inserts:
  """The matrices of an adapter.

  Args: see `peft_prompt.read`.
  Raises: UserError if rank or alpha are missing, a setting changes the
    formula, a tensor has no site, or a pair is not whole.
  """
  _check(config, where)
  pairs = collections.defaultdict(dict)
  for name, array in tensors.items():
    part = _PART.fullmatch(name)
    if not part or not modules.site_of(part[1]) or array.ndim != 2:
      raise UserError(
        f'{where} holds {name} {list(array.shape)}, which no site here can; '
        'expected lora_A and lora_B of attentions and MLPs. Whole weights '
        '(modules_to_save), biases, embeddings and lm_head have no insert: '
        'merge the adapter in PEFT, or train without them.'
      )
    pairs[part[1]][part[2]] = array
  arrays, alike = {}, collections.defaultdict(list)
  for module, pair in pairs.items():
    rank = modules.setting(config.get('rank_pattern'), module, config['r'])
    alpha = modules.setting(
      config.get('alpha_pattern'), module, config['lora_alpha']
    )
    shapes = {name: list(array.shape) for name, array in pair.items()}
    ranks = [shapes.get('A', [None])[0], shapes.get('B', [None])[-1]]
    if ranks != [rank, rank]:
      raise UserError(
        f'{where} holds {shapes} for {module}; expected A [{rank}, in] and '
        f'B [out, {rank}], r of adapter_config.json. The folder was put '
        'together from two adapters: save it again.'
      )
    if config.get('use_rslora'):
      alpha = alpha * math.sqrt(rank)
    site = modules.site_of(module)
    arrays[f'{site}_insert/lora_a'] = pair['A'].T
    arrays[f'{site}_insert/lora_b'] = pair['B'].T
    alike[rank, float(alpha)].append(site)
  table = tuple(
    (at, functools.partial(LoRA, rank=rank, alpha=alpha))
    for (rank, alpha), sites in alike.items()
    for at in modules.patterns(sites)
  )
  return Inserts(table, dict(sorted(arrays.items())))


def _check(config, where) -> None:
  """Raises UserError for settings that are missing or not the formula's."""
  for name, kinds in ('r', (int,)), ('lora_alpha', (int, float)):
    value = config.get(name)
    if type(value) not in kinds or (name == 'r' and value < 1):
      raise UserError(
        f'{where} has {name} {value!r}; expected a number, without which the '
        'matrices do not say what they add. Put the one it was trained with '
        'into adapter_config.json.'
      )
  start = config.get('init_lora_weights')
  other = [name for name in _OTHER_FORMULA if config.get(name)]
  if start not in _PLAIN_STARTS:
    other.append(f'init_lora_weights {start!r}')
  if other:
    raise UserError(
      f'{where} was trained with {", ".join(other)}; expected plain LoRA on '
      'the base as it is, y + alpha / r x A B. Merge the adapter in PEFT, and '
      'use the merged model as a base.'
    )


def write(content: Inserts, where: str):
  """(config, {name: array}) of an adapter that holds such matrices.

  Raises: UserError for one at mlp/hidden, which is no module.
  """
  tensors, chosen = {}, {}
  for site, (settings, own) in content.by_site(where).items():
    module, reads = modules.module_of(site)
    if reads:
      raise UserError(
        f'The inserts for {where} have LoRA at {site}; expected it at kernels '
        'only, for PEFT has no module there. Keep inserts.npz.'
      )
    tensors[f'base_model.model.{module}.lora_A.weight'] = own['lora_a'].T
    tensors[f'base_model.model.{module}.lora_B.weight'] = own['lora_b'].T
    chosen[module] = settings['rank'], settings['alpha']
  (rank, alpha), _ = collections.Counter(chosen.values()).most_common(1)[0]
  config = {
    'peft_type': 'LORA',
    'r': rank,
    'lora_alpha': alpha,
    'target_modules': sorted(chosen),
    'rank_pattern': {m: r for m, (r, _) in chosen.items() if r != rank},
    'alpha_pattern': {m: a for m, (_, a) in chosen.items() if a != alpha},
    'lora_dropout': 0.0,
    'bias': 'none',
  }
  return config, tensors
