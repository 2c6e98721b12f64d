"""Says where the time of a training step goes, by kind of work.

    python benchmarks/profile.py --model t5_1_1_small --batch 8

Runs the compiled step of `step.py` under JAX's profiler and adds up the
operations that the device executed. What an operation is for is read off the
compiled program, which knows the module that each came from. A table goes to
stderr, one JSON line to stdout.
"""

import argparse
import collections
from collections.abc import Container, Iterable, Mapping, Sequence
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time

import jax

_HERE = pathlib.Path(__file__).parent
if not __package__:  # run as a file
  sys.path[0] = str(_HERE.parent)

from benchmarks import counts  # noqa: E402
from benchmarks import step as steps  # noqa: E402
from prompt_jax import ginfiles, heap  # noqa: E402
from prompt_jax.errors import UserError  # noqa: E402
from prompt_jax.training import sharding  # noqa: E402
from prompt_jax.training.step import Program, train_step  # noqa: E402

KINDS = {  # in the order of the table
  'products': 'products with matrices of the base',
  'attention': 'products of attention: scores, weighted sums',
  'softmax': 'softmax, masks and position biases',
  'norms': 'RMS norms',
  'activations': 'activations of the MLPs',
  'residual': 'residual stream, casts, heads put in order',
  'embedding': 'token embeddings, the prompt among them',
  'logits': 'products with the output embedding',
  'loss': 'cross entropy',
  'optimizer': 'update of what trains',
  'other': 'what the program has no name for',
}
_PRODUCT = re.compile(r'dot|matmul|ynn_fusion|onednn', re.I)
# An event of these holds the events of what it runs.
_OUTER = re.compile(r'(while|call|conditional|async)([.-]|$)')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?(\S+) = .*?metadata=\{[^}]*?op_name="([^"]+)"', re.M
)


def products(text: str) -> dict[str, str]:
  """{instruction that multiplies: the dot that it is, or holds the first of}.

  Args:
    text: `compiled.as_text()`.
  """
  found, inside, holds = {}, None, {}
  for line in text.splitlines():
    head = re.match(r'(?:ENTRY )?%?(\S+) \(.*\{$', line)
    if head:
      inside = head[1]
    made = re.match(r'\s+(?:ROOT )?%?(\S+) = .*? (\w[\w-]*)\(', line)
    if not made:
      continue
    called = re.search(r'calls=%?([\w.-]+)', line)
    multiplies = made[2] in ('dot', 'convolution')
    multiplies |= made[2] == 'custom-call' and bool(_PRODUCT.search(line))
    dot = made[1] if multiplies else called and holds.get(called[1])
    if dot:
      found[made[1]] = dot
      holds.setdefault(inside, dot)
  return found


def names(text: str) -> dict[str, str]:
  """{instruction: where in the model it comes from} of a program's text.

  A fusion is named after its last operation, which may be a norm's behind the
  products of a layer; one that multiplies has the name of its product here.
  """
  paths = dict(_INSTRUCTION.findall(text))
  named = {fusion: paths.get(dot) for fusion, dot in products(text).items()}
  return paths | {fusion: path for fusion, path in named.items() if path}


def kind(path: str, multiplies: bool) -> str:
  """The kind of work of an instruction; a key of `KINDS`.

  Args:
    path: of the program, such as
      'jit(step)/transpose(jvp(T5))/encoder/layers_0/attention/query/...'.
    multiplies: whether it holds a product.
  """
  if 'jvp' not in path:
    return 'optimizer' if path else 'other'
  if 'logits' in path:
    return 'logits' if multiplies else 'loss'
  if 'norm' in path:
    return 'norms'
  if re.search(r'attention[^/]*/(query|key|value|out)\b', path):
    return 'products' if multiplies else 'residual'
  if 'attention' in path:
    return 'attention' if multiplies else 'softmax'
  if 'relpos' in path:
    return 'softmax'
  if re.search(r'/mlp\b', path):
    return 'products' if multiplies else 'activations'
  if re.search('embed|prompt', path):
    return 'embedding'
  if re.search('encoder|decoder', path):
    return 'products' if multiplies else 'residual'
  return 'logits' if multiplies else 'loss'


def summed(
  events: Iterable[tuple[str, float]],
  paths: Mapping[str, str],
  multiply: Container[str],
  repeats: int,
) -> dict[str, dict[str, float]]:
  """{kind: {'forward', 'backward': seconds a step, 'operations' a step}}.

  Args:
    events: (instruction, seconds) as they were executed.
    paths: see `names`.
    multiply: see `products`.
    repeats: steps that the events are of.
  """
  found = collections.defaultdict(
    lambda: {'forward': 0.0, 'backward': 0.0, 'operations': 0.0}
  )
  for name, seconds in events:
    if _OUTER.match(name):
      continue
    path = paths.get(name, '')
    row = found[kind(path, name in multiply)]
    row['backward' if 'transpose' in path else 'forward'] += seconds / repeats
    row['operations'] += 1 / repeats
  return {name: dict(found[name]) for name in KINDS if name in found}


def traced(folder: str) -> list[tuple[str, float]]:
  """(instruction, seconds) of what a trace in a folder saw executed."""
  made = []
  for file in pathlib.Path(folder).rglob('*.xplane.pb'):
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
      for line in plane.lines:
        for event in line.events:
          operation = dict(event.stats).get('hlo_op')
          if operation:
            made.append((operation, event.duration_ns / 1e9))
  return made


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
  add('--repeats', type=int, default=5, help='steps timed, and steps traced')
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  parser.set_defaults(random=0, peak_size=1)
  return parser


def measure(args) -> dict:
  """All figures of one step; the keys are in benchmarks/README.md."""
  heap.keep()  # as `prompt-jax` does
  run = steps.configured(args)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state, frozen, rates = steps.starting(run, mesh, args.random)
  began = time.perf_counter()
  for _ in range(args.repeats):
    host = steps.random_batch(args, run.model.config)
    batch = jax.block_until_ready(sharding.put_batch(mesh, host))
  data = (time.perf_counter() - began) / args.repeats
  step = train_step(
    run.model, run.optimizer, rates, run.schedule, z_loss=run.z_loss
  )
  program = Program('the training step', step)
  made = program.compiled(state, frozen, batch)
  seconds = steps.seconds_of(program, state, frozen, batch, args.repeats)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(args.repeats):
        jax.block_until_ready(program(state, frozen, batch))
    events = traced(folder)
  if not events:
    raise UserError(
      f'JAX {jax.__version__} traced no operation on '
      f'{jax.devices()[0].device_kind}; expected a profiler that names them. '
      'benchmarks/step.py gives the time of the whole step.'
    )
  text = made.as_text()
  cost = made.cost_analysis()
  return {
    'model': args.model,
    'method': args.method,
    'batch': args.batch,
    'inputs': args.inputs,
    'targets': args.targets,
    'dtype': args.dtype,
    'seconds_median': statistics.median(seconds),
    'data_seconds': data,
    'flops': float(cost.get('flops', 0.0)),
    'bytes_accessed': float(cost.get('bytes accessed', 0.0)),
    'temp_bytes': program.cost()['temp_bytes'],
    'kinds': summed(events, names(text), products(text), args.repeats),
  }


def table(found: Mapping) -> str:
  """Markdown: a row a kind of work, the longest first."""
  total = sum(r['forward'] + r['backward'] for r in found['kinds'].values())
  lines = [
    '| | ms | share | forward ms | backward ms | operations |',
    '| --- | ---: | ---: | ---: | ---: | ---: |',
  ]
  order = sorted(
    found['kinds'].items(), key=lambda e: -e[1]['forward'] - e[1]['backward']
  )
  for name, row in order:
    both = row['forward'] + row['backward']
    lines.append(
      f'| {KINDS[name]} | {1e3 * both:.2f} | {both / max(total, 1e-12):.1%} | '
      f'{1e3 * row["forward"]:.2f} | {1e3 * row["backward"]:.2f} | '
      f'{row["operations"]:.0f} |'
    )
  lines.append(f'| all operations, traced | {1e3 * total:.2f} | 100.0% | | | |')
  whole = found['seconds_median']
  lines.append(f'| the step, not traced | {1e3 * whole:.2f} | | | | |')
  lines.append(
    f'| a batch, made and moved | {1e3 * found["data_seconds"]:.2f} '
  )
  lines[-1] += '| | | | |'
  lines += [
    '',
    f'{found["flops"] / 1e9:,.2f} GFLOP, {found["bytes_accessed"] / 1e9:,.2f} '
    f'GB read and written, {found["temp_bytes"] / 2**20:,.0f} MiB of '
    f'temporaries; {found["flops"] / whole / 1e9:,.1f} GFLOP/s',
  ]
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    counts.at_least_one(args, 'batch', 'inputs', 'targets', 'repeats')
    found = measure(args)
  except UserError as error:
    print(f'profile.py: {error}', file=sys.stderr)
    return 2
  print(table(found), file=sys.stderr)
  print(json.dumps(found), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
