"""Training with length buckets against one shape: examples a second.

    python benchmarks/buckets.py --json buckets.jsonl

Both run in one process and take turns, a block of steps each, so that what
else the machine does meets both. Every shape is compiled before the clock
starts. Then both prompts are evaluated on the validation split.
"""

import argparse
from collections.abc import Iterator
import json
import pathlib
import statistics
import sys
import tempfile
import time

import gin
import jax

from prompt_jax import ginfiles, heap, params, train
from prompt_jax.evaluate import flat_metrics
from prompt_jax.session import Session
from prompt_jax.stages import shapes_of
from prompt_jax.training import sharding
from prompt_jax.training.loop import Interruption

KINDS = {'one shape': None, 'buckets': 'auto'}
CLOCKS = {'wall': time.monotonic, 'cpu': time.process_time}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--model', default='mini', help='models/<name>.gin')
  add('--task', default='movie_sentiment')
  add('--inputs', type=int, default=128, help='TASK_FEATURE_LENGTHS of inputs')
  add('--targets', type=int, default=2, help='a shipped label and EOS')
  add('--steps', type=int, default=200, help='of each')
  add('--block', type=int, default=20, help='steps of a turn')
  add(
    '--clock',
    choices=CLOCKS,
    default='wall',
    help='cpu: of the process, for one core that others use too',
  )
  add('--json', type=pathlib.Path, help='a file that the line is added to')
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  return parser


class Contender:
  """A run that is carried out a block of steps at a time."""

  def __init__(self, args, kind: str, folder: str):
    lengths = {'inputs': args.inputs, 'targets': args.targets}
    given = [
      f'MIXTURE_OR_TASK_NAME={args.task}',
      f'MODEL_DIR={folder}/{kind.replace(" ", "_")}',
      f'TASK_FEATURE_LENGTHS={lengths}',
      f'TRAIN_STEPS={args.steps}',
      f'LENGTH_BUCKETS={KINDS[kind]!r}',
      *args.gin_bindings,
    ]
    files = [f'models/{args.model}.gin', 'methods/prompt.gin', 'runs/train.gin']
    ginfiles.parse(files, given)
    self.run = gin.get_configurable(train.Run)()
    self.session = Session(self.run, Interruption())
    self.state, _ = self.session.restore()
    self.program = train._program(self.session, shapes_of(self.state))
    for length in self.run.dataset.shapes(0, args.steps):
      step = self._step_of(length)
      if step is not None:
        self.program.plan(
          self.state, self.session.frozen, self._put(step), ahead=False
        )
        self.program.compiled(self.state, self.session.frozen, self._put(step))
    self._next: Iterator = self.run.dataset.batches()

  def _put(self, step: int):
    return sharding.put_batch(self.run.mesh, self.run.dataset.batch(step))

  def _step_of(self, length: int) -> int | None:
    """The first step whose batch has that length."""
    for step in range(self.run.plan.train_steps):
      batch = self.run.dataset.batch(step)
      if batch['encoder_input_tokens'].shape[1] == length:
        return step
    return None

  def go_on(self, steps: int, clock) -> float:
    """Seconds of some steps, the making of their batches included."""
    began = clock()
    for _ in range(steps):
      batch = sharding.put_batch(self.run.mesh, next(self._next))
      self.state, _ = self.program(self.state, self.session.frozen, batch)
    jax.block_until_ready(self.state)
    return clock() - began

  def metrics(self) -> dict[str, float]:
    flat = params.merge(self.state.trainable, self.session.frozen)
    return flat_metrics(self.session._evaluator(self.run.model)(flat))


def measured(args) -> dict:
  """The figures of both, and their ratio."""
  heap.keep()  # as `prompt-jax` does
  clock = CLOCKS[args.clock]
  with tempfile.TemporaryDirectory() as folder:
    both = {kind: Contender(args, kind, folder) for kind in KINDS}
    seconds = {kind: [] for kind in both}
    for contender in both.values():
      contender.go_on(1, clock)  # touches its buffers for the first time
    for _ in range(args.steps // args.block):
      for kind, contender in both.items():
        seconds[kind].append(contender.go_on(args.block, clock))
    size = both['buckets'].run.dataset.batch_size
    ratios = [one / two for one, two in zip(*seconds.values(), strict=True)]
    total = {kind: sum(each) for kind, each in seconds.items()}
    steps = args.steps // args.block * args.block
    return {
      'model': args.model,
      'task': args.task,
      **{'inputs': args.inputs, 'targets': args.targets},
      'batch': size,
      'steps': steps,
      'clock': args.clock,
      'ratio': total['one shape'] / total['buckets'],
      'ratio_min': min(ratios),
      'ratio_median': statistics.median(ratios),
      'ratio_max': max(ratios),
      'examples_per_second': {k: steps * size / s for k, s in total.items()},
      'lengths': list(both['buckets'].run.dataset.lengths['inputs']),
      'padding_share': {
        k: c.run.dataset.padding_share['inputs'] for k, c in both.items()
      },
      'metrics': {k: c.metrics() for k, c in both.items()},
    }


def main(argv=None) -> None:
  argv = sys.argv[1:] if argv is None else argv
  args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
  found = measured(args)
  line = json.dumps(found)
  print(line, flush=True)
  if args.json:
    with args.json.open('a') as file:
      file.write(line + '\n')
  pace = found['examples_per_second']
  print(
    f'{found["ratio"]:.2f} times the examples a second '
    f'({found["ratio_min"]:.2f} to {found["ratio_max"]:.2f} by block): '
    f'{pace["buckets"]:.1f} against {pace["one shape"]:.1f}',
    file=sys.stderr,
  )


if __name__ == '__main__':
  main()
