"""Lanes: cohorts of a sweep side by side, each on CPU devices of its own.

    members -> a lane a device -> threads

JAX sees one device in a CPU, whose cores share each product. Cohorts on a
device of one core each wait for nothing of one another's, while the cores that
share a product wait for its slowest part. They evaluate where all were opened.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import os

import jax
from jax.sharding import Mesh

from prompt_jax.cohort import Cohort, arranged, gigabytes
from prompt_jax.errors import UserError
from prompt_jax.member import Member
from prompt_jax.training import sharding
from prompt_jax.training.loop import Interruption
from prompt_jax.training.progress import Progress


def ask(most: int) -> None:
  """Has JAX make a device of each core, `most` of them at most.

  Where JAX has started, or the user says how many, it stays as it is.
  """
  said = 'xla_force_host_platform_device_count' in os.environ.get(
    'XLA_FLAGS', ''
  )
  if said or jax.config.jax_num_cpu_devices > 0:
    return
  if hasattr(os, 'sched_getaffinity'):  # a container may have fewer
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', min(most, cores))


def possible() -> bool:
  """Whether there may be several: the devices are those of one CPU."""
  return jax.default_backend() == 'cpu' and jax.process_count() == 1


def meshes(asked: int | None, run) -> list[Mesh]:
  """The (data, model) mesh of each lane that there may be.

  Args:
    asked: SWEEP_DEVICES; None is all that JAX has made.
    run: the `train.Run` of a member.
  Raises: UserError if there are not as many.
  """
  if not possible():
    if asked is not None and asked > 1:
      raise UserError(
        f'SWEEP_DEVICES is {asked}, but here the rows of a batch go over all '
        f'{jax.device_count()} devices ({jax.default_backend()}); expected '
        'None. Prompts go over the devices of one CPU only.'
      )
    return [run.mesh]
  size, every = run.mesh.size, jax.devices()
  most = len(every) // size
  if asked is not None and asked > most:
    raise UserError(
      f'SWEEP_DEVICES is {asked}; expected at most {most}: JAX has made '
      f'{len(every)} devices of this CPU, and MODEL_PARALLEL is {size}. '
      'Correct it, or XLA_FLAGS.'
    )
  return [
    sharding.make_mesh(size, every[i * size : (i + 1) * size])
    for i in range(asked or most)
  ]


def planned(
  members: Sequence[Member],
  frozen,
  together: int,
  budget: int,
  interruption: Interruption,
  say: Callable[[str], None],
  places: Sequence[Mesh],
) -> list[list[Cohort]]:
  """The cohorts of each lane, as many lanes as fit into memory.

  Args:
    members, frozen, together, interruption: see `Cohort`.
    budget: bytes of all programs.
    say: prints a line.
    places: the mesh of each lane, the first where the members are.
  """
  rest = budget, interruption, say
  count = min(len(places), len(members))
  if count == 1:
    return [arranged(members, frozen, together, *rest)]
  lane = lambda i: Cohort(
    members[i::count], frozen, together, interruption, places[i]
  )
  first = lane(0)
  peak = first.prepare()['peak_bytes']
  room = max(int(budget // peak), 1)
  if room < count:
    say(
      f'{count} devices with a base and a program each take '
      f'{gigabytes(count * peak)}; expected at most {gigabytes(budget)} '
      f'(SWEEP_MEMORY): {room} of them'
    )
    return planned(members, frozen, together, *rest, places[:room])
  return [[first], *([lane(i)] for i in range(1, count))]


def run(lanes: Sequence[Sequence[Cohort]], interruption: Interruption) -> None:
  """Trains all cohorts: those of a lane in turn, lanes at once.

  What one raises ends all; the others save where they stand.
  """

  def one(cohorts, progress=None):
    for cohort in cohorts:
      if interruption.requested:
        break
      with contextlib.ExitStack() as stack:
        shown = progress or stack.enter_context(_progress([cohort]))
        cohort.run(shown)

  if len(lanes) == 1:
    one(lanes[0])
    return
  every = [cohort for lane in lanes for cohort in lane]
  with (
    _progress(every) as progress,
    concurrent.futures.ThreadPoolExecutor(len(lanes), 'lane') as pool,
  ):
    running = [pool.submit(one, lane, progress) for lane in lanes]
    try:
      for each in concurrent.futures.as_completed(running):
        each.result()
    except BaseException:
      interruption.requested = True
      raise


def _progress(cohorts: Sequence[Cohort]):
  """The display of cohorts, a context."""
  members = [member for cohort in cohorts for member in cohort.members]
  steps = members[0].run.plan.train_steps
  start = min(member.number for member in members)
  return contextlib.closing(Progress(steps, start, 'sweep'))
