"""Times the compiled training step of a model and a method.

    python benchmarks/step.py --model t5_1_1_small --method prompt

One JSON line goes to stdout, a table to stderr. Weights and tokens are
random, no checkpoint is read: what a step costs does not depend on them. One
device is measured, the first. Importing `prompt_jax.train` brings TensorFlow
in; every measurement comes after it, and TensorFlow computes nothing.
"""

import argparse
from collections.abc import Sequence
import datetime
import json
import os
import pathlib
import resource
import statistics
import sys
import time

import gin
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import batches, export, ginfiles, heap, params
from prompt_jax.errors import UserError
from prompt_jax.t5 import quantized
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from prompt_jax.training.step import Program, train_step

_HERE = pathlib.Path(__file__).parent
_WARM_UP = 2  # the first step touches its buffers for the first time
_FIRST_TOKEN = 2  # 0 is padding, 1 the end of a sequence


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],
    epilog='Any value of the gin files: --gin.NAME=VALUE.',
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('--model', required=True, help='models/<name>.gin')
  add('--method', default='prompt', help='methods/<name>.gin')
  add('--batch', type=int, default=8, help='examples of a step')
  add('--inputs', type=int, default=128, help='input tokens of an example')
  add('--targets', type=int, default=8, help='target tokens of an example')
  add('--prompt_length', type=int, help="prompt tokens; default: the method's")
  add('--dtype', default='bfloat16', help='of activations and frozen base')
  add('--padding', type=float, default=0.0, help='share of padding')
  add('--repeats', type=int, default=7, help='steps timed')
  add('--peak_size', type=int, default=4096, help='side of the peak matmul')
  add(
    '--random',
    type=int,
    nargs='?',
    const=0,
    default=0,
    metavar='SEED',
    help='seed of weights and tokens, which are always random',
  )
  add('--json', type=pathlib.Path, help='a file that the line is added to')
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  return parser


def _check(args) -> None:
  """Raises UserError for numbers that no step can have."""
  for name in ('batch', 'inputs', 'targets', 'repeats', 'peak_size'):
    if getattr(args, name) < 1:
      raise UserError(
        f'--{name} is {getattr(args, name)}; expected at least 1.'
      )
  if not 0 <= args.padding < 1:
    raise UserError(
      f'--padding is {args.padding}; expected the share of positions that is '
      'padding, at least 0 and below 1.'
    )


def configured(args):
  """The `train.Run` that model and method describe, without data.

  Raises: UserError for an unknown model, method or binding, and for
    microbatches: their loop would be counted as one turn.
  """
  given = [f'ACTIVATION_DTYPE={args.dtype!r}', *args.gin_bindings]
  if args.prompt_length is not None:
    given.append(f'PROMPT_LENGTH={args.prompt_length}')
  files = [
    f'models/{args.model}.gin',
    f'methods/{args.method}.gin',
    str(_HERE / 'step.gin'),
  ]
  ginfiles.parse(files, given)
  run = gin.get_configurable('prompt_jax.train.Run')()
  if run.microbatches != 1:
    raise UserError(
      f'Run.microbatches is {run.microbatches}; expected 1, for the compiler '
      'counts the FLOPs of a loop once. Measure one microbatch: lower --batch.'
    )
  return run


def random_batch(args, config) -> dict[str, np.ndarray]:
  """Random tokens, each row with the same share of padding at its end."""
  rng = np.random.default_rng(args.random)

  def tokens(length):
    shape = (args.batch, length)
    drawn = rng.integers(_FIRST_TOKEN, config.vocab_size, shape, np.int32)
    real = max(1, round(length * (1 - args.padding)))
    drawn[:, real:] = 0
    return drawn

  ids = np.zeros(args.batch, np.int32)
  return batches.assemble(tokens(args.inputs), tokens(args.targets), ids)


def starting(run, mesh, seed: int):
  """Random parameters, placed and split as `train` does it.

  Returns: (State, frozen {path: leaf, as a run holds it}, rates).
  """
  shapes, axes = states.abstract(run.model)
  trains, _, rates = params.split(shapes, run.table)
  places = sharding.shardings(mesh, axes, shapes)
  flat = states.initial(run.model, jax.random.key(seed), list(shapes), places)
  trainable = {path: flat.pop(path) for path in trains}
  # popping frees each float32 array as soon as it is cast
  frozen = {
    path: quantized.stored(path, flat.pop(path), run.model.config)
    for path in list(flat)
  }
  whole = sharding.replicated(mesh)
  put = lambda tree: jax.tree.map(lambda x: jax.device_put(x, whole), tree)
  state = states.State(
    step=put(jnp.zeros((), jnp.int32)),
    trainable=trainable,
    opt_state=put(run.optimizer.init(trainable)),
    rng=put(jax.random.key_data(jax.random.key(seed))),
  )
  return state, frozen, rates


def seconds_of(program: Program, state, frozen, batch, repeats: int):
  """Seconds of each step; a step ends when its whole new state is there."""
  seconds = []
  for _ in range(_WARM_UP + repeats):
    began = time.perf_counter()
    state, sums = program(state, frozen, batch)
    jax.block_until_ready((state, sums))
    seconds.append(time.perf_counter() - began)
  return seconds[_WARM_UP:]


def peak(dtype: str, size: int, device, repeats: int) -> float:
  """FLOP/s of the fastest of some products of two large square matrices.

  2 size^3 / seconds, operands in `dtype`, result float32: what every product
  of the model is (`t5.product`). It is what this machine reaches now, not
  what its maker states.
  """
  keys = jax.random.split(jax.random.key(0))
  a, b = (
    jax.device_put(jax.random.normal(key, (size, size), dtype), device)
    for key in keys
  )
  multiply = jax.jit(
    lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)
  )
  jax.block_until_ready(multiply(a, b))
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(multiply(a, b))
    seconds.append(time.perf_counter() - began)
  return 2 * size**3 / min(seconds)


def max_rss() -> int:
  """Bytes: the most memory that this process has held so far."""
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == 'darwin' else most * 1024


def _setting(args, run, device) -> dict:
  """The fields that say what was measured, and where."""
  lengths = [source.length for source in export.sources(run.model).values()]
  return {
    'model': args.model,
    'method': args.method,
    'batch': args.batch,
    'inputs': args.inputs,
    'targets': args.targets,
    'prompt_length': sum(lengths),
    'dtype': args.dtype,
    'padding': args.padding,
    'repeats': args.repeats,
    'seed': args.random,
    'bindings': args.gin_bindings,
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d'),
    'jax': jax.__version__,
    'device': device.device_kind,
    'cores': len(os.sched_getaffinity(0)),
    'tunables': os.environ.get('GLIBC_TUNABLES', ''),
  }


def measure(args) -> dict:
  """All figures of one training step; see benchmarks/README.md."""
  heap.keep()  # as `prompt-jax` does
  run = configured(args)
  device = jax.devices()[0]
  mesh = sharding.make_mesh(devices=[device])
  state, frozen, rates = starting(run, mesh, args.random)
  host = random_batch(args, run.model.config)
  batch = sharding.put_batch(mesh, host)
  step = train_step(
    run.model,
    run.optimizer,
    rates,
    run.schedule,
    z_loss=run.z_loss,
    label_smoothing=run.label_smoothing,
    loss_normalizing_factor=run.loss_normalizing_factor,
  )
  program = Program('the training step', step, donate_argnums=(0,))
  program.compiled(state, frozen, batch)
  trainable = params.count(state.trainable)
  seconds = seconds_of(program, state, frozen, batch, args.repeats)
  rss = max_rss()  # before the matrices of `peak`
  middle = statistics.median(seconds)
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  tokens = sum(int(np.count_nonzero(host[name])) for name in names)
  cost = program.cost()
  highest = peak(args.dtype, args.peak_size, device, args.repeats)
  return _setting(args, run, device) | {
    'tokens_per_second': tokens / middle,
    'seconds_min': min(seconds),
    'seconds_median': middle,
    'seconds_max': max(seconds),
    'compile_seconds': program.seconds,
    'flops': cost['flops'],
    'flops_per_second': cost['flops'] / middle,
    'peak_flops_per_second': highest,
    'utilisation': cost['flops'] / middle / highest,
    'peak_bytes': cost['peak_bytes'],
    'max_rss_bytes': rss,
    'trainable': trainable,
    'total': trainable + params.count(frozen),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    _check(args)
    row = measure(args)
  except UserError as error:
    print(f'step.py: {error}', file=sys.stderr)
    return 2
  line = json.dumps(row)
  for name, value in row.items():
    shown = f'{value:,.4g}' if isinstance(value, float) else value
    print(f'{name:>22}  {shown}', file=sys.stderr)
  print(line, flush=True)
  if args.json:
    args.json.parent.mkdir(parents=True, exist_ok=True)
    with args.json.open('a', encoding='utf-8') as file:
      file.write(line + '\n')
  return 0


if __name__ == '__main__':
  # a program read from a cache would be compiled in no time
  jax.config.update('jax_enable_compilation_cache', False)
  sys.exit(main())
