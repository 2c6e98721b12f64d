"""IA3 of PEFT: a tensor `<module>.ia3_l` for every module.

    [out, 1]   scales what the module gives     scale [F] at its site
    [1, in]    scales what it reads             scale [F] at mlp/hidden

Source: peft 0.21, tuners/ia3/layer.py.
"""

from collections.abc import Mapping
import re
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.inserts.ia3 import IA3
from prompt_jax.interop import modules
from prompt_jax.interop.content import Inserts

_SCALE = re.compile(r'base_model\.model\.(.+)\.ia3_l')


def read(
  config: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> Inserts:
  """The scales of an adapter.

  Args: see `peft_prompt.read`.
  Raises: UserError if a tensor is no scale or has no site.
  """
  del config  # the shapes tell what each vector scales
  arrays = {}
  for name, array in tensors.items():
    scale = _SCALE.fullmatch(name)
    reads = array.ndim == 2 and array.shape[0] == 1
    if scale and array.ndim == 2 and 1 in array.shape:
      site = modules.site_of(scale[1], reads)
    else:
      site = None
    if site is None:
      raise UserError(
        f'{where} holds {name} {list(array.shape)}, which no site here can; '
        'expected <module>.ia3_l of attentions and MLPs, [out, 1] or, for '
        'wo, [1, in]. Whole weights (modules_to_save), embeddings and the '
        'inputs of other modules have no insert: train without them.'
      )
    arrays[f'{site}_insert/scale'] = array.reshape(-1)
  sites = [path.removesuffix('_insert/scale') for path in arrays]
  table = tuple((at, IA3) for at in modules.patterns(sites))
  return Inserts(table, dict(sorted(arrays.items())))


def write(content: Inserts, where: str):
  """(config, {name: array}) of an adapter that holds scales.

  Raises: UserError if a module has a scale on either side.
  """
  tensors, read_ = {}, []
  for site, (_, own) in content.by_site(where).items():
    module, reads = modules.module_of(site)
    name = f'base_model.model.{module}.ia3_l'
    if name in tensors:
      raise UserError(
        f'The inserts for {where} scale what {module} reads and what it '
        'gives; expected one of the two, all that PEFT can hold. Keep '
        'inserts.npz, or leave mlp/wo out of methods/ia3.gin.'
      )
    tensors[name] = own['scale'].reshape((1, -1) if reads else (-1, 1))
    read_ += [module] if reads else []
  names = (name.removeprefix('base_model.model.') for name in tensors)
  config = {
    'peft_type': 'IA3',
    'target_modules': sorted(name.removesuffix('.ia3_l') for name in names),
    'feedforward_modules': sorted(read_),
  }
  return config, tensors
