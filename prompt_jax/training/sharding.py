"""Which part of an array lives on which device: a mesh and its rules.

The mesh has two axes, `data` (rows of a batch) and `model` (slices of the
frozen base). Parameters carry logical axis names; the ordered rules map each
name to a mesh axis, first free axis wins, as in T5X's standard rules.
"""

from collections.abc import Mapping, Sequence
import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from prompt_jax.errors import UserError

# T5X's standard rules for one-dimensional parameter and activation sharding,
# with the axes of prompts, which stay whole on every device.
RULES = (
  ('batch', 'data'),
  ('vocab', 'model'),
  ('mlp', 'model'),
  ('heads', 'model'),
  ('joined_kv', 'model'),
  ('embed', None),
  ('relpos_buckets', None),
  ('tasks', None),
  ('prompt', None),
  ('prompt_embed', None),
)


def make_mesh(
  model_parallel: int = 1, devices=None, data_parallel: int | None = None
) -> Mesh:
  """A (data, model) mesh over all devices.

  Args:
    model_parallel: devices that share one copy of the base.
    devices: the devices; None is all of them.
    data_parallel: copies of the base; None is as many as there can be.
  Raises: UserError if the devices do not divide, or are too few.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  if model_parallel < 1 or devices.size % model_parallel:
    raise UserError(
      f'MODEL_PARALLEL is {model_parallel}; expected a divisor of the '
      f'{devices.size} devices found ({devices.flat[0].platform}).'
    )
  most = devices.size // model_parallel
  copies = most if data_parallel is None else data_parallel
  if not 1 <= copies <= most:
    raise UserError(
      f'data_parallel is {data_parallel}; expected 1 to {most}, or None: there '
      f'are {devices.size} devices, and MODEL_PARALLEL is {model_parallel}.'
    )
  devices = devices.flat[: copies * model_parallel]
  return Mesh(devices.reshape(copies, model_parallel), ('data', 'model'))


def spec(
  mesh: Mesh, names: Sequence[str | None], shape, rules=RULES
) -> PartitionSpec:
  """The partition of one array.

  A dimension that its mesh axis does not divide stays whole (the position
  table has as many rows as heads, six in T5 1.1 small).

  Raises: ValueError for a logical axis that no rule names.
  """
  table, used, parts = dict(rules), set(), []
  for name, size in zip(names, shape, strict=True):
    if name is not None and name not in table:
      raise ValueError(f'no sharding rule for the logical axis {name!r}')
    axis = table.get(name)
    if axis is None or axis in used or size % mesh.shape[axis]:
      parts.append(None)
    else:
      used.add(axis)
      parts.append(axis)
  return PartitionSpec(*parts)


def shardings(mesh: Mesh, axes: Mapping[str, Sequence], shapes) -> dict:
  """{path: NamedSharding} from {path: logical names} and {path: array}."""
  return {
    path: NamedSharding(mesh, spec(mesh, names, shapes[path].shape))
    for path, names in axes.items()
  }


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
  """Rows of a batch over the `data` axis."""
  return NamedSharding(mesh, PartitionSpec('data'))


def check_batch(
  mesh: Mesh, batch_size: int, microbatches: int = 1, name='BATCH_SIZE'
) -> None:
  """Raises UserError unless the rows divide by devices and microbatches."""
  parts = mesh.shape['data'] * microbatches
  if batch_size < 1 or batch_size % parts:
    good = max(parts, math.ceil(batch_size / parts) * parts)
    raise UserError(
      f'{name} is {batch_size}; expected a multiple of {parts} '
      f'({mesh.shape["data"]} devices on the data axis x {microbatches} '
      f'microbatches). Use --gin.{name}={good}, or a larger '
      'MODEL_PARALLEL.'
    )


def put_batch(mesh: Mesh, batch):
  """Host rows of this process -> global arrays, sharded over `data`."""
  rows = by_rows(mesh)
  return {
    name: jax.make_array_from_process_local_data(rows, value)
    for name, value in batch.items()
  }


def gather(array: jax.Array) -> np.ndarray:
  """A whole array on every host."""
  if array.is_fully_addressable:
    return np.asarray(jax.device_get(array))
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(array, tiled=True))
