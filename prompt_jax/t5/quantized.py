"""Frozen dense kernels as int8 with a float32 scale for each output.

    scale_f = max_d |W_df| / 127         V = round(W / scale)
    s_t = max_d |x_td| / 127             x' = round(x / s)
    y_tf = s_t scale_f sum_d x'_td V_df  the sum in int32, y float32
    dx   = (g scale) V^T                 operands in `dtype`, result float32

Rounding is left out of the gradient. A quantized kernel stands at the path of
the kernel it was made of; embedding, norms, position tables and the output
matrix stay as they are.
"""

from collections.abc import Iterable, Mapping
import functools
import re
from typing import Any

import flax
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.typing import Array

_LARGEST = 127  # of int8, on both sides
_DENSE = re.compile(r'.*/(query|key|value|out|wi|wi_0|wi_1|wo)/kernel')


@flax.struct.dataclass
class Quantized:
  """A kernel [D,F] as int8, with the scale of each output.

  Attributes:
    values: int8[D,F]; the first leaf, so that it is what Flax compares with
      the shape of the kernel.
    scale: float32[F].
  """

  values: Array
  scale: Array

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  @property
  def dtype(self):
    return self.values.dtype


def is_dense(path: str) -> bool:
  """Whether the kernel at a slash path is one that int8 is for."""
  return _DENSE.fullmatch(path) is not None


def quantize(kernel) -> Quantized:
  """[D,F] floating -> Quantized, on the host or the device where it is.

  |W - scale V| <= scale / 2, and a column of zeros stays one.
  """
  xp = jnp if isinstance(kernel, jax.Array) else np
  kernel = xp.asarray(kernel, xp.float32)
  scale = xp.max(xp.abs(kernel), axis=0) / _LARGEST
  scale = xp.where(scale > 0, scale, 1.0).astype(xp.float32)
  return Quantized(xp.rint(kernel / scale[None]).astype(xp.int8), scale)


def dequantize(kernel: Quantized) -> Array:
  """Quantized -> float32[D,F], scale V."""
  return kernel.values.astype(np.float32) * kernel.scale[None]


def stored(path: str, leaf: Any, config) -> Any:
  """A frozen leaf of the base as the configuration says it is held.

  Args:
    path: its slash path.
    leaf: an array, or a `Quantized`, which is left as it is.
    config: T5Config.
  Returns: `Quantized` where `frozen_dtype` is 'int8' and the leaf a dense
    kernel; else the array in the activation dtype.
  """
  if isinstance(leaf, Quantized):
    return leaf
  if config.frozen_dtype == 'int8' and is_dense(path):
    return quantize(leaf)
  return leaf.astype(jnp.dtype(config.activation_dtype))


def placed(leaf: Any, sharding) -> Any:
  """Puts a stored leaf on devices; a scale lies with its outputs."""
  if not isinstance(leaf, Quantized):
    return jax.device_put(leaf, sharding)
  beside = sharding
  if isinstance(sharding, jax.sharding.NamedSharding):
    spec = jax.sharding.PartitionSpec(*sharding.spec[1:2])
    beside = jax.sharding.NamedSharding(sharding.mesh, spec)
  return Quantized(
    jax.device_put(leaf.values, sharding), jax.device_put(leaf.scale, beside)
  )


def opened(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{path: leaf} with each quantized leaf as two arrays, for digests."""
  found = {}
  for path, leaf in flat.items():
    if isinstance(leaf, Quantized):
      found |= {f'{path}/int8': leaf.values, f'{path}/scale': leaf.scale}
    else:
      found[path] = leaf
  return found


def check(config, trains: Iterable[str], is_staged: bool = False) -> None:
  """Refuses int8 where it cannot be.

  Args:
    config: T5Config.
    trains: paths of what trains.
    is_staged: whether stages cut the base into parts.
  Raises: UserError if a dense kernel trains or is to be cut.
  """
  if config.frozen_dtype != 'int8':
    return
  moving = [path for path in trains if is_dense(path)]
  if moving:
    raise UserError(
      f"FROZEN_DTYPE is 'int8', and {len(moving)} dense kernels train, such "
      f'as {moving[0]}; expected all of them to be frozen, for a step of an '
      'optimizer is smaller than one of int8. Set FROZEN_DTYPE=None, or take '
      'a method that leaves the kernels of the base alone.'
    )
  if is_staged:
    raise UserError(
      "FROZEN_DTYPE is 'int8' in a run with stages; expected the whole model "
      'in every stage, for parts are cut out of floating kernels. Set '
      'FROZEN_DTYPE=None, or take runs/train.gin.'
    )


def _dot(x, values):
  dims = (((x.ndim - 1,), (0,)), ((), ()))
  return lax.dot_general(x, values, dims, preferred_element_type=jnp.int32)


def _multiply(x, kernel):
  x = x.astype(jnp.float32)
  size = jnp.max(jnp.abs(x), axis=-1, keepdims=True) / _LARGEST
  size = jnp.where(size > 0, size, 1.0)
  y = _dot(jnp.rint(x / size).astype(jnp.int8), kernel.values)
  return y.astype(jnp.float32) * (size * _row(kernel.scale, x.ndim))


def _row(scale, ndim):
  """[F] -> [1,..,F], for ranks are not promoted."""
  return scale.reshape((1,) * (ndim - 1) + (-1,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def quantized_product(x: Array, kernel: Quantized, dtype: str) -> Array:
  """x W with W in int8 and x rounded to int8 token by token.

  Args:
    x: [..., D].
    kernel: of [D,F].
    dtype: of the operands of the backward product.
  Returns: float32 [..., F]. With s_t and scale_f as above its error is at
    most sum_d (scale_f |x_td| + s_t |W_df|) / 2 + D s_t scale_f / 4.
  Source: Dettmers et al. 2022, section 2.1 (absmax, vector-wise).
  Departures: no outlier columns kept in a wider type.
  """
  return _multiply(x, kernel)


def _forward(x, kernel, dtype):
  return _multiply(x, kernel), (kernel, jnp.zeros((), x.dtype))


def _backward(dtype, saved, g):
  kernel, kind = saved
  # an int8 is exact in bfloat16
  g = (g * _row(kernel.scale, g.ndim)).astype(dtype)
  values = kernel.values.astype(dtype)
  dims = (((g.ndim - 1,), (1,)), ((), ()))
  dx = lax.dot_general(g, values, dims, preferred_element_type=jnp.float32)
  return dx.astype(kind.dtype), None


quantized_product.defvjp(_forward, _backward)
