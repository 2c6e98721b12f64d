"""Times steps of several prompts in one program against steps of each alone.

    python benchmarks/sweep.py --model mini --members 8 --batch 32

Asks the stacked step of `prompt-jax sweep` and the step of `prompt-jax train`
in turn, after compiling, on the same random tokens. One JSON line goes to
stdout; `ratio` is stacked / (members x alone), of medians, smaller is better.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys

import jax
import jax.numpy as jnp

_HERE = pathlib.Path(__file__).parent
if not __package__:  # run as a file
  sys.path[0] = str(_HERE.parent)

from benchmarks import clock, counts  # noqa: E402
from benchmarks import step as steps  # noqa: E402
from prompt_jax import ginfiles, heap, stacked  # noqa: E402
from prompt_jax.errors import UserError  # noqa: E402
from prompt_jax.training import sharding  # noqa: E402
from prompt_jax.training.program import Program  # noqa: E402
from prompt_jax.training.step import train_step  # noqa: E402


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


def measure(args) -> dict:
  """All figures; ratios of medians by clock and by CPU time."""
  heap.keep()  # as `prompt-jax` does
  run, count = steps.configured(args), args.members
  mesh = run.mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state, frozen, rates = steps.starting(run, mesh, args.random)
  host = steps.random_batch(args, run.model.config)
  batch = sharding.put_batch(mesh, host)
  step = train_step(
    run.model, run.optimizer, rates, run.schedule, z_loss=run.z_loss
  )
  alone = Program('the step', step, donate_argnums=(0,))
  together = args.together or stacked.default_together(count)
  program = stacked.program(run, together, mesh)
  whole = sharding.replicated(mesh)
  put = lambda tree: jax.device_put(tree, whole)
  held = {'stacked': put(stacked.stack([state] * count)), 'alone': state}
  args_of = (
    put({path: jnp.full(count, rate) for path, rate in rates.items()}),
    put(jnp.ones(count, bool)),
    frozen,
    stacked.put(mesh, [host] * count),
  )

  def turn(name: str):
    if name == 'alone':
      held[name], sums = alone(held[name], frozen, batch)
    else:
      held[name], sums = program(held[name], *args_of)
    return held[name], sums

  middle = clock.in_turn(
    {name: lambda name=name: turn(name) for name in ('alone', 'stacked')},
    args.repeats,
  )
  return {
    'model': args.model,
    'members': count,
    'together': together,
    'batch': args.batch,
    'inputs': args.inputs,
    'alone_seconds': middle['alone'][0],
    'stacked_seconds': middle['stacked'][0],
    'ratio': middle['stacked'][0] / (count * middle['alone'][0]),
    'cpu_ratio': middle['stacked'][1] / (count * middle['alone'][1]),
    'flops_ratio': program.cost()['flops'] / together / alone.cost()['flops'],
    'temp_bytes_alone': alone.cost()['temp_bytes'],
    'temp_bytes_stacked': program.cost()['temp_bytes'],
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    counts.at_least_one(
      args, 'members', 'batch', 'inputs', 'targets', 'repeats'
    )
    found = measure(args)
  except UserError as error:
    print(f'sweep.py: {error}', file=sys.stderr)
    return 2
  print(json.dumps(found), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
