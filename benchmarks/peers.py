"""Times prompt tuning of ours and of PEFT on the same base, prompt and tokens.

    python benchmarks/peers.py --model t5_1_1_small --batch 8 --inputs 128 \
      --targets 8 --prompt_length 100

Makes an environment for the peers (`environment.py`), then starts a worker
process a peer. Each is asked in turn for one step, over and over, so that all
are warm and whatever else the machine does meets all of them. A table goes to
stderr; with --json a line of JSON to stdout, else the table goes there.
Weights are random. Greedy decoding makes all of its tokens in every peer.
"""

import argparse
from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import gin
import numpy as np

_HERE = pathlib.Path(__file__).parent
if not __package__:  # run as a file
  sys.path[0] = str(_HERE.parent)

from benchmarks import counts, environment  # noqa: E402
from prompt_jax import ginfiles  # noqa: E402
from prompt_jax.errors import UserError  # noqa: E402
from prompt_jax.t5.config import T5Config  # noqa: E402

_WARM_UP = 2  # the first compiles, the second touches its buffers anew
_FIRST_TOKEN = 2  # 0 is padding, 1 the end of a sequence
OURS = 'ours'
PEERS = {  # name: (worker, dtype of the base; 'auto' as in training)
  OURS: ('jax_peer.py', 'auto'),
  'peft_float32': ('torch_peer.py', 'float32'),
  'peft_bfloat16': ('torch_peer.py', 'bfloat16'),
}
_TIMED = {  # what a worker does: what it is called
  'train': 'training step',
  'decode': 'greedy decoding of a batch',
  'rank': 'ranking the labels',
  'score': 'the labels one by one',
}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  add = parser.add_argument
  add('--model', default='t5_1_1_small', help='models/<name>.gin')
  add('--batch', type=int, default=8, help='examples of a step')
  add('--inputs', type=int, default=128, help='input tokens of an example')
  add('--targets', type=int, default=8, help='target tokens of an example')
  add('--prompt_length', type=int, default=100, help='rows of the prompt')
  add('--labels', type=int, default=6, help='labels that are ranked')
  add('--repeats', type=int, default=7, help='times that each is timed')
  add('--json', action='store_true', help='one JSON line on stdout')
  add(
    '--environment',
    type=pathlib.Path,
    default=_HERE.parent / '.venv' / 'peers',
    help="folder of the peers' environment, made on first need",
  )
  add(
    '--python',
    type=pathlib.Path,
    help='an interpreter that has PEFT, in place of such an environment',
  )
  add('--gin_bindings', action='append', default=[], help=argparse.SUPPRESS)
  return parser


class Worker:
  """A process that answers a line of JSON to a line.

  Args:
    command: what to start.
    environment: its environment variables.
  Attributes:
    about: what it says of itself once it is ready.
  """

  def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
    self._name = pathlib.Path(command[-3]).name
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=dict(environment),
    )
    self.about = self._answer()

  def _answer(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      status = self._process.wait()
      raise UserError(
        f'{self._name} ended with status {status}; expected an answer. What '
        'it said is above.'
      )
    return json.loads(line)

  def ask(self, what: str) -> dict:
    """{'seconds', 'cpu', 'value', 'peak'} of one piece of work."""
    self._process.stdin.write(what + '\n')
    self._process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()


def measured(workers: Mapping[str, Worker], repeats: int) -> dict:
  """Asks all workers for all they do, in turn.

  Returns: {worker: {'train': {'seconds': [...], 'cpu': [...], 'value'}, ...,
    'save': bytes, 'peak': bytes after training}}.
  """
  found = {name: {} for name in workers}
  for what in _TIMED:
    for turn in range(_WARM_UP + repeats):
      for name, worker in workers.items():
        got = worker.ask(what)
        row = found[name].setdefault(what, {'seconds': [], 'cpu': []})
        row.setdefault('value', got['value'])  # of the first: the same state
        if turn >= _WARM_UP:
          row['seconds'].append(got['seconds'])
          row['cpu'].append(got['cpu'])
        if what == 'train':
          found[name]['peak'] = got['peak']
  for name, worker in workers.items():
    found[name]['save'] = worker.ask('save')['value']
    found[name].update(worker.about)
  return found


def ratios(found: Mapping[str, Mapping]) -> dict[str, float]:
  """Ours / theirs, smaller is better: of medians, wall clock and CPU time.

  `<what>_ratio_<peer>` and `<what>_cpu_ratio_<peer>`; `rank_ratio_scored` is
  our ranking against our own scoring of the labels one by one.
  """
  median = lambda name, what, clock: statistics.median(found[name][what][clock])
  made = {}
  for clock, between in ('seconds', 'ratio'), ('cpu', 'cpu_ratio'):
    for what in 'train', 'decode', 'rank':
      for name in found:
        if name != OURS:
          theirs = median(name, what, clock)
          made[f'{what}_{between}_{name}'] = median(OURS, what, clock) / theirs
    made[f'rank_{between}_scored'] = median(OURS, 'rank', clock) / median(
      OURS, 'score', clock
    )
  return made


def table(found: Mapping[str, Mapping], batch: int) -> str:
  """Markdown: a row a figure, a column a peer."""
  line = lambda cells: '| ' + ' | '.join(cells) + ' |'
  lines = [line(['', *found]), line(['---', *['---:'] * len(found)])]

  def row(name, cell):
    lines.append(line([name, *(cell(each) for each in found.values())]))

  def spread(what, clock):
    def cell(each):
      values = each[what][clock]
      middle = statistics.median(values)
      return f'{middle:.4g} ({min(values):.4g} to {max(values):.4g})'

    return cell

  for what, name in _TIMED.items():
    row(f'{name}, s', spread(what, 'seconds'))
    row(f'{name}, CPU s', spread(what, 'cpu'))
  rate = lambda each: batch / statistics.median(each['decode']['seconds'])
  row('decoded examples/s', lambda each: f'{rate(each):.1f}')
  row('loss of the first step', lambda each: f'{each["train"]["value"]:.4f}')
  row('loading the base, s', lambda each: f'{each["load_seconds"]:.2f}')
  row('ready after, s', lambda each: f'{each["start_seconds"]:.1f}')
  row('saved prompt, bytes', lambda each: f'{each["save"]:,}')
  row('peak memory, MiB', lambda each: f'{each["peak"] / 2**20:,.0f}')
  row('versions', lambda each: each['versions'])
  return '\n'.join(lines)


def _config(model: str, bindings: Sequence[str]) -> T5Config:
  """The sizes that a gin file describes."""
  files = [f'models/{model}.gin', 'methods/prompt.gin', str(_HERE / 'step.gin')]
  ginfiles.parse(files, bindings)
  return gin.get_configurable(T5Config)()


def theirs(config: T5Config) -> dict:
  """The configuration in the words of transformers.

  Raises: UserError for sizes that it has no word for.
  """
  if config.decoder_d_ff not in (None, config.d_ff):
    raise UserError(
      f'MLPs of {config.d_ff} and {config.decoder_d_ff} units are no T5 of '
      'the peers; expected one width. Give another --model.'
    )
  gated = len(config.mlp_activations) > 1
  return {
    'vocab_size': config.vocab_size,
    'd_model': config.d_model,
    'd_kv': config.d_kv,
    'd_ff': config.d_ff,
    'num_heads': config.num_heads,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'relative_attention_num_buckets': config.relpos_num_buckets,
    'relative_attention_max_distance': config.relpos_max_distance,
    'dropout_rate': 0.0,
    'feed_forward_proj': 'gated-gelu' if gated else 'relu',
    'tie_word_embeddings': config.tied_logits,
    'decoder_start_token_id': 0,
  }


def _write(args, config: T5Config, folder: pathlib.Path) -> None:
  """The tokens and the prompt that all peers read."""
  rng = np.random.default_rng(0)
  shapes = {
    'inputs': (args.batch, args.inputs),
    'targets': (args.batch, args.targets),
    'labels': (args.labels, args.targets),
  }
  tokens = {
    name: rng.integers(_FIRST_TOKEN, config.vocab_size, shape, np.int32)
    for name, shape in shapes.items()
  }
  np.savez(folder / 'batch.npz', **tokens)
  shape = (args.prompt_length, config.d_model)
  rows = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
  np.save(folder / 'prompt.npy', rows)


def measure(args) -> dict:
  """All figures of all peers: {'peers', 'ratios', and the setting}."""
  interpreter = str(args.python or environment.python(args.environment))
  config = _config(args.model, args.gin_bindings)
  cores = len(os.sched_getaffinity(0))
  variables = {
    **os.environ,
    'OMP_NUM_THREADS': str(cores),
    'TRANSFORMERS_VERBOSITY': 'error',
    'HF_HUB_OFFLINE': '1',
  }
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    setting = {
      'folder': folder,
      'config': theirs(config),
      'model': args.model,
      'bindings': args.gin_bindings,
      'threads': cores,
    }
    # -P: no file of this folder is to pass for a module of theirs
    base = [interpreter, '-P', str(_HERE / 'torch_peer.py'), 'make']
    subprocess.run([*base, json.dumps(setting)], check=True, env=variables)
    _write(args, config, pathlib.Path(folder))
    # where a worker finds this checkout
    ours = [str(_HERE.parent), os.environ.get('PYTHONPATH', '')]
    paths = {
      **variables,
      'PYTHONPATH': os.pathsep.join(filter(None, ours)),
    }
    workers = {}
    for name, (file, dtype) in PEERS.items():
      python = sys.executable if name == OURS else interpreter
      said = json.dumps({**setting, 'dtype': dtype})
      command = [python, '-P', str(_HERE / file), 'serve', said]
      workers[name] = Worker(command, paths if name == OURS else variables)
      stack.callback(workers[name].close)
    found = measured(workers, args.repeats)
  names = ('model', 'batch', 'inputs', 'targets', 'prompt_length', 'labels')
  about = {name: getattr(args, name) for name in names}
  return {**about, 'cores': cores, 'peers': found}


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, prints; returns the exit status (2: bad input)."""
  argv = sys.argv[1:] if argv is None else argv
  try:
    args = _parser().parse_args(ginfiles.flags_to_bindings(argv))
    counts.at_least_one(
      args, 'batch', 'inputs', 'targets', 'prompt_length', 'repeats'
    )
    found = measure(args)
  except UserError as error:
    print(f'peers.py: {error}', file=sys.stderr)
    return 2
  between = ratios(found['peers'])
  shown = sys.stderr if args.json else sys.stdout
  print(table(found['peers'], args.batch), file=shown)
  for name, value in between.items():
    print(f'{name:>32}  {value:.3f}', file=shown)
  if args.json:
    print(json.dumps({**between, **found}), flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
