"""What a run holds: the trainable part, the optimizer, the step, the rng.

    model -> shapes and logical axes of every parameter
    base checkpoint + initialisers -> parameters -> trainable | frozen

The frozen part is not in the state: it is an argument beside it that is
never differentiated, donated, copied or saved.
"""

from collections.abc import Mapping
import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.t5 import pretrained, quantized
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.sites import select
from prompt_jax.t5.t5 import T5


@flax.struct.dataclass
class State:
  """The part of a run that moves.

  Attributes:
    step: int32[], updates made so far.
    trainable: {path: float32 array}.
    opt_state: the optimizer's state over `trainable`.
    rng: raw key of the run; each step folds its number in.
  """

  step: jax.Array
  trainable: dict[str, jax.Array]
  opt_state: Any
  rng: jax.Array


def abstract(model: nn.Module):
  """Shapes and logical axes of all parameters, without allocating any.

  Returns: ({path: ShapeDtypeStruct}, {path: tuple of logical axis names}).
  Raises: UserError if an insert meets no site.
  """
  select(model.inserts, model.config)
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  ids = jax.ShapeDtypeStruct((1,), jnp.int32)
  tree = jax.eval_shape(
    model.init, jax.random.key(0), tokens, tokens, tokens, ids
  )['params']
  boxed = params.flatten(tree)
  shapes = {path: nn.meta.unbox(leaf) for path, leaf in boxed.items()}
  axes = {
    path: getattr(leaf, 'names', (None,) * len(shapes[path].shape))
    for path, leaf in boxed.items()
  }
  return shapes, axes


def base_shapes(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the plain T5 under the model: what a base checkpoint holds."""
  return dict(_base_shapes(model.config))


@functools.lru_cache(16)  # a session asks several times, a sweep's often
def _base_shapes(config: T5Config):
  return abstract(T5(config))[0]


def initial(model: nn.Module, rng, paths, shardings=None) -> params.Flat:
  """Freshly initialised parameters at `paths`; the rest is never built.

  Args:
    rng: key; the same key and paths give the same values on any mesh.
    paths: which parameters.
    shardings: {path: NamedSharding} or None.
  Returns: {path: float32 array}.
  """

  def init(rng):
    tokens = jnp.zeros((1, 1), jnp.int32)
    ids = jnp.zeros((1,), jnp.int32)
    tree = model.init(rng, tokens, tokens, tokens, ids)['params']
    flat = params.flatten(nn.meta.unbox(tree))
    return {path: flat[path] for path in paths}

  out = None if shardings is None else {p: shardings[p] for p in paths}
  return jax.jit(init, out_shardings=out)(rng)


def load_base(
  model: nn.Module, base: str, trainable: Mapping[str, Any], shardings
) -> tuple[params.Flat, str]:
  """The base's parameters on the devices, one array at a time.

  Frozen ones as `quantized.stored` says, those that train in float32.

  Returns: ({path: array}, digest of what is stored in the checkpoint, which
    does not depend on the dtype it is loaded in).
  Raises: UserError if keys or shapes differ from the model's.
  """
  total, placed = params.Digest(), {}
  for path, array in pretrained.leaves(base, base_shapes(model)):
    total.update(path, array)
    if path in trainable:
      leaf = array.astype(np.float32, copy=False)
    else:
      leaf = quantized.stored(path, array, model.config)
    placed[path] = quantized.placed(leaf, shardings[path])
  return placed, total.hex()


def digest(flat: Mapping[str, jax.Array]) -> str:
  """Digest of arrays on devices, one at a time; of this host's part only."""
  total = params.Digest()
  for path in sorted(flat):
    leaf = flat[path]
    if leaf.is_fully_addressable:
      total.update(path, jax.device_get(leaf))
    else:
      for i, shard in enumerate(leaf.addressable_shards):
        total.update(f'{path}[{i}]', jax.device_get(shard.data))
  return total.hex()


def summary(shapes: Mapping[str, Any], rates: Mapping[str, float]) -> str:
  """The start-up lines: what trains, at which rate, and what is frozen."""
  moving = {path: shapes[path] for path in rates}
  trains, total = params.count(moving), params.count(shapes)
  lines = [f'trainable {trains:,} of {total:,} ({100 * trains / total:.3f} %)']
  shown = sorted(rates)[:10]
  lines += [
    f'  {path} {tuple(shapes[path].shape)} at rate {rates[path]:g}'
    for path in shown
  ]
  if len(rates) > len(shown):
    lines.append(f'  and {len(rates) - len(shown)} more')
  lines.append(f'frozen    {total - trains:,} parameters')
  return '\n'.join(lines)
