"""Sources outside of a model: made, filled with numbers, applied."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params


def inputs(rows=3, length=5, width=13, tasks=2, seed=0):
  """(task ids int[B], embeds [B,T,H], mask with padding in every other row)."""
  rng = np.random.default_rng(seed)
  embeds = rng.normal(size=(rows, length, width)).astype(np.float32)
  sizes = length - (np.arange(rows) % 2) * 2
  mask = np.arange(length)[None] < sizes[:, None]
  ids = np.arange(rows, dtype=np.int32) % tasks
  return jnp.asarray(ids), jnp.asarray(embeds), jnp.asarray(mask)


def _making(source, args):
  """`(key) -> {path: array}` of a source at step 0."""

  def make(rng):
    # a field of that name hides the method of some sources
    tree = nn.Module.init(source, rng, *args)['params']
    return params.flatten(nn.meta.unbox(tree))

  return make


def initial(source, *args, seed=0):
  """{path: array} of a source at step 0."""
  return jax.jit(_making(source, args))(jax.random.key(seed))


def filled(source, *args, seed=1):
  """{path: array} of random numbers in the shapes of a source."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(_making(source, args), jax.random.key(0))
  return {
    path: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    for path, x in shapes.items()
  }


def apply(source, flat, *args, **options):
  """What a source makes of its arguments with given parameters."""
  # compiled as one: a tenth of the time of op after op
  run = jax.jit(functools.partial(source.apply, **options))
  return run({'params': params.unflatten(flat)}, *args)
