"""Times decoding of a batch, with and without keys and values of the input.

    python benchmarks/decode.py --model t5_1_1_small --beams 4

Greedy decoding and beam search of `--targets` tokens, each as it is and with
the keys and values of cross attention made and kept (`t5/absorb.py` turned
off), and the encoder alone; in turn, in one process. Weights are random, and
the end of a sequence is seldom drawn. One JSON line on stdout: medians in
seconds and CPU seconds, `ratio` is as it is / kept.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys
from unittest import mock

import jax

_HERE = pathlib.Path(__file__).parent
if not __package__:  # run as a file
  sys.path[0] = str(_HERE.parent)

from benchmarks import clock, counts  # noqa: E402
from benchmarks import step as steps  # noqa: E402
from prompt_jax import ginfiles, heap, params, predict  # noqa: E402
from prompt_jax.errors import UserError  # noqa: E402
from prompt_jax.t5 import absorb  # noqa: E402
from prompt_jax.training import sharding  # noqa: E402
from prompt_jax.training.program import Program  # noqa: E402

_NEVER = 10**9


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--model', default='mini', help='models/<name>.gin')
  add('--method', default='prompt', help='methods/<name>.gin')
  add('--batch', type=int, default=8, help='examples')
  add('--inputs', type=int, default=128, help='input tokens of an example')
  add('--targets', type=int, default=8, help='tokens that are decoded')
  add('--beams', type=int, default=4, help='of beam search')
  add('--prompt_length', type=int, default=100, help='prompt tokens')
  add('--dtype', default='auto', help='of activations and frozen base')
  add('--repeats', type=int, default=7, help='times that each is timed')
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  parser.set_defaults(random=0, padding=0.0)
  return parser


def measure(args) -> dict:
  """All figures of one setting."""
  heap.keep()  # as `prompt-jax` does
  run = steps.configured(args)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state, frozen, _ = steps.starting(run, mesh, args.random)
  flat = params.merge(state.trainable, frozen)
  host = steps.random_batch(args, run.model.config)
  batch = sharding.put_batch(mesh, host)
  decodings = {
    'greedy': predict.Decoding(),
    'beam': predict.Decoding('beam', args.beams),
  }
  programs = {
    'encode': Program('encoding', lambda *of: predict.encode(run.model, *of))
  }
  for name, decoding in decodings.items():
    for how, worth in ('', absorb.WORTH), ('_kept', _NEVER):
      decode = predict.decoder(run.model, args.targets, decoding)
      made = programs[name + how] = Program(name, decode)
      with mock.patch.object(absorb, 'WORTH', worth):
        made.compiled(flat, batch)
  middle = clock.in_turn(
    {
      name: lambda program=program: program(flat, batch)
      for name, program in programs.items()
    },
    args.repeats,
  )
  shown = ('model', 'batch', 'inputs', 'targets', 'beams', 'prompt_length')
  return {
    **{name: getattr(args, name) for name in shown},
    'dtype': run.model.config.activation_dtype,
    'seconds': {name: pair[0] for name, pair in middle.items()},
    'cpu_seconds': {name: pair[1] for name, pair in middle.items()},
    **{
      f'{name}_{kind}': middle[name][i] / middle[f'{name}_kept'][i]
      for name in decodings
      for i, kind in enumerate(('ratio', 'cpu_ratio'))
    },
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    counts.at_least_one(args, 'batch', 'inputs', 'targets', 'beams', 'repeats')
    found = measure(args)
  except UserError as error:
    print(f'decode.py: {error}', file=sys.stderr)
    return 2
  print(json.dumps(found), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
