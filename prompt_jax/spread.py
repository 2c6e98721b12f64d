"""CPU devices that the members of a sweep are spread over.

JAX sees one device in a CPU, whose cores share each product. Two members on a
device of one core each wait less for one another than two cores do for the
parts of a product, where products are in float32.
"""

import contextlib
import os

import jax

from prompt_jax.errors import UserError


def ask(most: int) -> None:
  """Has JAX make a device of each core, `most` of them at most.

  Where JAX has started, or the user says how many, it stays as it is.
  """
  said = 'xla_force_host_platform_device_count' in os.environ.get(
    'XLA_FLAGS', ''
  )
  if said or jax.config.jax_num_cpu_devices > 0:
    return
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', min(most, os.cpu_count() or 1))


def possible() -> bool:
  """Whether members may be spread: the devices are those of one CPU."""
  return jax.default_backend() == 'cpu' and jax.process_count() == 1


def devices(asked: int | None, run) -> int:
  """Devices that members are spread over at most.

  Args:
    asked: SWEEP_DEVICES.
    run: the `train.Run` of a member.
  Raises: UserError if there are not as many.
  """
  known = jax.device_count() // run.mesh.size
  if asked is None:
    fast = run.model.config.activation_dtype == 'float32'
    return known if fast and possible() else 1
  if asked > 1 and not possible():
    raise UserError(
      f'SWEEP_DEVICES is {asked}, but here the rows of a batch go over all '
      f'{jax.device_count()} devices ({jax.default_backend()}); expected None. '
      'Members are spread over those of one CPU only.'
    )
  if asked > known:
    raise UserError(
      f'SWEEP_DEVICES is {asked}; expected at most {known}, for so many '
      f'devices of {run.mesh.size} x MODEL_PARALLEL has JAX made of this CPU. '
      'Correct it, or XLA_FLAGS.'
    )
  return asked
