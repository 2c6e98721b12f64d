"""Times steps of several prompts as a sweep makes them against steps alone.

    python benchmarks/sweep.py --model mini --members 8 --batch 32

Asks the stacked steps of `prompt-jax sweep`, one a device, and the step of
`prompt-jax train` in turn, after compiling, on the same random tokens. One
JSON line goes to stdout; `ratio` is stacked / (members x alone), of medians,
smaller is better. A run alone has one device and all cores.
"""

import argparse
from collections.abc import Callable, Sequence
import json
import os
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

_HERE = pathlib.Path(__file__).parent
if not __package__:  # run as a file
  sys.path[0] = str(_HERE.parent)

from benchmarks import step as steps  # noqa: E402
from prompt_jax import ginfiles, heap, stacked  # noqa: E402
from prompt_jax.errors import UserError  # noqa: E402
from prompt_jax.training import sharding  # noqa: E402
from prompt_jax.training.program import Program  # noqa: E402
from prompt_jax.training.step import train_step  # noqa: E402

_WARM_UP = 2


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--model', default='mini', help='models/<name>.gin')
  add('--method', default='prompt', help='methods/<name>.gin')
  add('--members', type=int, default=8, help='prompts')
  add(
    '--together',
    type=int,
    help='prompts of one vectorised pass; default: as the sweep chooses',
  )
  add('--devices', type=int, help='of a CPU; default: as the sweep chooses')
  add('--batch', type=int, default=32, help='examples of a step of each')
  add('--inputs', type=int, default=64, help='input tokens of an example')
  add('--targets', type=int, default=8, help='target tokens of an example')
  add('--prompt_length', type=int, help="prompt tokens; default: the method's")
  add('--dtype', default='bfloat16', help='of activations and frozen base')
  add('--padding', type=float, default=0.0, help='share of padding')
  add('--repeats', type=int, default=15, help='times that each is timed')
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  parser.set_defaults(random=0, peak_size=1)
  return parser


def _timed(call: Callable[[], object]) -> tuple[float, float]:
  """Seconds and CPU seconds of a call."""
  began, cpu = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  return time.perf_counter() - began, time.process_time() - cpu


class _Lane:
  """The members of one device, and their stacked step.

  Args:
    run: of all members.
    device: theirs.
    count: how many there are.
  """

  def __init__(self, args, run, device, count: int):
    mesh = run.mesh = sharding.make_mesh(devices=[device])
    state, frozen, rates = steps.starting(run, mesh, args.random)
    together = args.together or stacked.default_together(count)
    self.together = min(together, count)
    self.program = stacked.program(run, self.together)
    whole = sharding.replicated(mesh)
    put = lambda tree: jax.device_put(tree, whole)
    self._state = put(stacked.stack([state] * count))
    self._args = (
      put({path: jnp.full(count, rate) for path, rate in rates.items()}),
      put(jnp.ones(count, bool)),
      frozen,
      stacked.put(mesh, [steps.random_batch(args, run.model.config)] * count),
    )

  def step(self):
    """The states after one step of each member."""
    self._state, sums = self.program(self._state, *self._args)
    return self._state, sums


def measure(args) -> dict:
  """All figures; ratios of medians by clock and by CPU time."""
  heap.keep()  # as `prompt-jax` does
  cores = args.devices or len(os.sched_getaffinity(0))
  devices = sharding.side_by_side(min(cores, args.members))
  devices = devices or jax.devices()[:1]
  run, count = steps.configured(args), args.members
  sizes = stacked.parts(count, -(-count // len(devices)))
  lanes = [
    _Lane(args, run, *each) for each in zip(devices, sizes, strict=False)
  ]
  mesh = run.mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state, frozen, rates = steps.starting(run, mesh, args.random)
  batch = sharding.put_batch(mesh, steps.random_batch(args, run.model.config))
  step = train_step(
    run.model, run.optimizer, rates, run.schedule, z_loss=run.z_loss
  )
  alone = Program('the step', step, donate_argnums=(0,))

  def turn(name: str):
    nonlocal state
    if name == 'stacked':
      return [lane.step() for lane in lanes]
    state, sums = alone(state, frozen, batch)
    return state, sums

  found: dict[str, list] = {'alone': [], 'stacked': []}
  for number in range(_WARM_UP + args.repeats):
    for name, seconds in found.items():
      spent = _timed(lambda name=name: turn(name))
      if number >= _WARM_UP:
        seconds.append(spent)
  middle = {
    name: [statistics.median(each) for each in zip(*spent, strict=True)]
    for name, spent in found.items()
  }
  return {
    'model': args.model,
    'members': count,
    'together': lanes[0].together,
    'devices': len(lanes),
    'batch': args.batch,
    'inputs': args.inputs,
    'alone_seconds': middle['alone'][0],
    'stacked_seconds': middle['stacked'][0],
    'ratio': middle['stacked'][0] / (count * middle['alone'][0]),
    'cpu_ratio': middle['stacked'][1] / (count * middle['alone'][1]),
    'flops_ratio': lanes[0].program.cost()['flops']
    / lanes[0].together
    / alone.cost()['flops'],
    'temp_bytes_alone': alone.cost()['temp_bytes'],
    'temp_bytes_stacked': sum(
      lane.program.cost()['temp_bytes'] for lane in lanes
    ),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    for name in 'members', 'devices', 'batch', 'inputs', 'targets', 'repeats':
      if getattr(args, name) is not None and getattr(args, name) < 1:
        raise UserError(
          f'--{name} is {getattr(args, name)}; expected at least 1.'
        )
    found = measure(args)
  except UserError as error:
    print(f'sweep.py: {error}', file=sys.stderr)
    return 2
  print(json.dumps(found), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
