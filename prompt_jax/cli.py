"""The `prompt-jax` command: flags and gin files in, one call out.

Exit status: 0 done (also after SIGTERM, with the state saved), 2 bad input
(one paragraph on stderr; --debug shows the traceback too).
"""

import argparse
import errno
import importlib
import sys

from prompt_jax import ginfiles, heap
from prompt_jax.errors import UserError

_HELP = {
  'train': ('Run', 'train', 'train a method on tasks'),
  'eval': ('Evaluation', 'evaluate', 'evaluate a base with a prompt file'),
  'infer': ('Inference', 'infer', 'predict for the rows of a file'),
  'neurons': ('Neurons', 'score', 'score the units of MLPs over a task'),
}

# Commands that read their own flags: modules with `flags` and `run`.
_FILES = {
  'spot': 'rank saved prompts for a task, and make a start of the best',
  'recycle': 'turn a prompt of one base into a prompt of another',
  'convert': 'read and write files of PEFT, torch.save and T5X',
  'transfer': 'try prompts on other tasks and bases, compare what they do',
  'report': 'one HTML file of the runs and studies in a folder',
  'sweep': 'train several prompts at once over one frozen base',
}

COMMANDS = (*_HELP, 'export', *_FILES)

# What a method file and its initial values say is about training. These take
# what was trained from PROMPT_FILE, so that the file of training may stay.
_WITHOUT = {
  command: tuple(
    f'prompt_jax.{name}'
    for name in 'train training prompted prompts inserts transfer'.split()
  )
  for command in ('eval', 'infer', 'neurons')
}
_INSERTS = 'prompt_jax.inserts'  # INSERTS_FILE holds them

# Flags of a command that are short for a binding.
_SHORT = {
  'infer': {'input': 'INPUT_FILE', 'output': 'INFER_OUTPUT_FILE'},
  'train': {'seeds': 'SEEDS'},
}

# Flags of Hugging Face's Trainer that people try, and what to write here.
_ELSEWHERE = {
  '--output_dir': '--gin.MODEL_DIR=...',
  '--learning_rate': '--gin.LEARNING_RATE=...',
  '--num_train_epochs': '--gin.TRAIN_STEPS=... (steps, not epochs)',
  '--max_steps': '--gin.TRAIN_STEPS=...',
  '--per_device_train_batch_size': '--gin.BATCH_SIZE=... (all devices)',
  '--resume_from_checkpoint': 'the same command again: a run resumes itself',
  '--metric_for_best_model': '--gin.BEST_METRIC="\'accuracy\'"',
  '--load_best_model_at_end': '--gin.BEST_METRIC=... (its prompt is kept)',
  '--seed': '--gin.RANDOM_SEED=...',
  '--model_name_or_path': '--gin_file=models/... and '
  '--gin.INITIAL_CHECKPOINT_PATH=...',
}

# What the user can mend: no room, no right to write, a file for a folder.
_UNWRITABLE = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EEXIST,
)

_EPILOG = """\
a first prompt, on the model and data that ship with the package:
  prompt-jax train --gin_file=models/mini.gin --gin_file=methods/prompt.gin \\
    --gin_file=runs/train.gin --gin.MIXTURE_OR_TASK_NAME=movie_sentiment \\
    --gin.TRAIN_STEPS=300 --gin.MODEL_DIR=runs/first

gin files are found by such names from any folder; a NAME that is missing or
misspelt is told before anything is computed.
"""


def _parser(argv) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='prompt-jax',
    description='Soft prompts for frozen T5-family models.',
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  made = {}
  for name, (_, _, help_) in _HELP.items():
    made[name] = commands.add_parser(name, help=help_, allow_abbrev=False)
    _add_gin(made[name])
  _add_short(made)
  export = commands.add_parser(
    'export', help='write prompts or the whole model', allow_abbrev=False
  )
  _add_gin(export)
  export.add_argument(
    '--output', required=True, help='folder to write; it must not exist'
  )
  export.add_argument(
    '--step', type=int, help='of the checkpoint; the newest if not given'
  )
  export.add_argument(
    '--whole',
    action='store_true',
    help='write base and trained parameters as one model',
  )
  export.add_argument(
    '--merge',
    action='store_true',
    help='write such a model with the inserts folded in (LoRA, IA3)',
  )
  export.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='of the weights of a whole model',
  )
  export.add_argument(
    '--model_dir', help='of the run: takes its config.gin as the gin file'
  )
  for name, help_ in _FILES.items():
    made = commands.add_parser(name, help=help_, allow_abbrev=False)
    made.add_argument('--debug', action='store_true', help='show tracebacks')
    if argv[:1] == [name]:  # the others need not be imported
      module = importlib.import_module(f'prompt_jax.{name}')
      module.flags(made)
      made.set_defaults(run=module.run)
  return parser


def _add_short(made) -> None:
  """The flags of `_SHORT`, to the parsers {command: parser}."""
  for name, macro in _SHORT['infer'].items():
    made['infer'].add_argument(
      f'--{name}', metavar='FILE', help=f'short for --gin.{macro}'
    )
  made['train'].add_argument(
    '--seeds',
    type=int,
    nargs='+',
    metavar='N',
    help='a run for each, in MODEL_DIR/seed_<n>, and their mean; short for '
    '--gin.SEEDS',
  )


def _add_gin(parser: argparse.ArgumentParser) -> None:
  parser.epilog = _EPILOG
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  add = parser.add_argument
  add(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help='a gin file: one model, one method, one run (any order); repeatable',
  )
  add(
    '--gin_bindings',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='also written --gin.NAME=VALUE; repeatable',
  )
  add(
    '--gin_search_paths',
    action='append',
    default=[],
    metavar='DIR',
    help='folders searched for gin files before the current one',
  )
  add('--tfds_data_dir', help='where TFDS keeps its data')
  add(
    '--seqio_additional_cache_dirs',
    default='',
    help='folders of cached SeqIO tasks, separated by commas',
  )
  add('--coordinator_address', help='of process 0, off TPU pods')
  add('--process_count', type=int, help='processes in all, off TPU pods')
  add('--process_index', type=int, help='of this process, off TPU pods')
  add('--dry_run', action='store_true', help='check the configuration only')
  add('--debug', action='store_true', help='show tracebacks of bad input')


def _prepare(args) -> None:
  """What has to happen before the configured objects are built."""
  if args.coordinator_address:
    import jax

    jax.distributed.initialize(
      args.coordinator_address, args.process_count, args.process_index
    )
  if args.tfds_data_dir or args.seqio_additional_cache_dirs:
    import seqio

    if args.tfds_data_dir:
      seqio.set_tfds_data_dir_override(args.tfds_data_dir)
    folders = args.seqio_additional_cache_dirs.split(',')
    seqio.add_global_cache_dirs([f for f in folders if f])


def _configured(command: str):
  """The object that gin describes for a command, built."""
  import gin

  kind = _HELP[command][0]
  module = importlib.import_module(f'prompt_jax.{command}')
  return gin.get_configurable(getattr(module, kind))()


def _train_each(dry_run: bool) -> bool:
  """Carries out a run a seed; False if SEEDS does not ask for any."""
  from prompt_jax import seeds

  asked = seeds.asked()
  if asked is None or dry_run:
    return False
  seeds.train_each(asked)
  return True


def _given(args, name: str) -> list[str]:
  """The values that the command line binds to a macro, in order."""
  pairs = (binding.partition('=') for binding in args.gin_bindings)
  return [value.strip() for key, _, value in pairs if key.strip() == name]


def _lengthen(args) -> None:
  """Turns the short flags of a command into bindings."""
  for short, macro in _SHORT.get(args.command, {}).items():
    value = getattr(args, short)
    if value is None:
      continue
    if _given(args, macro):
      raise UserError(
        f'{macro} is given twice, as --{short} and as --gin.{macro}; expected '
        'one of them. Leave the other out.'
      )
    args.gin_bindings.append(f'{macro}={value!r}')


def _take_length(args) -> int | None:
  """PROMPT_LENGTH of the command line, which is then no longer a binding."""
  values = _given(args, 'PROMPT_LENGTH')
  if not values:
    return None
  args.gin_bindings = [
    binding
    for binding in args.gin_bindings
    if binding.partition('=')[0].strip() != 'PROMPT_LENGTH'
  ]
  if not values[-1].isdecimal():
    raise UserError(
      f'PROMPT_LENGTH is {values[-1]}; expected a whole number of positions, '
      'that of PROMPT_FILE. It can be left out: the file tells.'
    )
  return int(values[-1])


def _check(configured) -> None:
  """What can be told before anything is read or compiled."""
  if hasattr(configured, 'seeds'):
    configured.seeds = None  # runs of several seeds are alike
  if hasattr(configured, 'check'):
    configured.check()


def _run(args) -> int:
  if args.command in _FILES:
    print('\n'.join(args.run(args)))
    return 0
  if getattr(args, 'model_dir', None):
    args.gin_file.append(f'{args.model_dir}/config.gin')
  if not args.gin_file:
    raise UserError(
      'No --gin_file was given; expected a model, a method and a run, such '
      'as --gin_file=models/mini.gin --gin_file=methods/prompt.gin '
      '--gin_file=runs/train.gin. `prompt-jax train --help` shows a whole '
      'command.'
    )
  _prepare(args)
  _lengthen(args)
  without = _WITHOUT.get(args.command, ())
  length = _take_length(args) if without else None
  left = ginfiles.parse(
    args.gin_file, args.gin_bindings, args.gin_search_paths, without
  )
  command = 'train' if args.command == 'export' else args.command
  if args.command == 'train' and _train_each(args.dry_run):
    return 0
  configured = _configured(command)
  with_inserts = any(f'{name}.'.startswith(f'{_INSERTS}.') for name in left)
  if with_inserts and configured.inserts_file is None:
    raise UserError(
      f'The method has inserts, and `prompt-jax {args.command}` would leave '
      'them out; expected the file that holds them. Give INSERTS_FILE, '
      'MODEL_DIR/inserts/<step>/inserts.npz of the run.'
    )
  if args.command in ('eval', 'infer'):
    from prompt_jax import tuned

    if length is not None:
      tuned.check_length(configured.prompt_file, length)
    files = configured.prompt_file, configured.inserts_file
    tuned.check_used(args.command, left, configured.base, *files)
  if args.dry_run:
    _check(configured)
    print(ginfiles.operative())
    return 0
  if args.command == 'export':
    from prompt_jax.export_run import export_run

    for path in export_run(
      configured,
      args.output,
      args.step,
      args.whole,
      args.dtype,
      args.merge,
    ):
      print(path)
    return 0
  module = importlib.import_module(f'prompt_jax.{command}')
  getattr(module, _HELP[command][1])(configured)
  return 0


def main(argv=None) -> int:
  """Runs one command; returns the exit status."""
  heap.keep()
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    for argument in argv:
      flag = argument.split('=')[0]
      if flag in _ELSEWHERE:
        raise UserError(
          f'{flag} is not a flag of this command; expected {_ELSEWHERE[flag]}.'
        )
    args = _parser(argv).parse_args(ginfiles.flags_to_bindings(argv))
    return _run(args)
  except UserError as error:
    if '--debug' in argv:
      raise
    # gin adds a line about the configurable it was calling
    said = str(error).split('\n  In call to configurable')[0]
    print(f'prompt-jax: {said}', file=sys.stderr)
    return 2
  except OSError as error:
    if '--debug' in argv or error.errno not in _UNWRITABLE:
      raise
    print(
      f'prompt-jax: {error.filename or "A file"} cannot be written or read: '
      f'{error.strerror}. Expected a folder that this user may write to, with '
      'room. Free some space or give another one.',
      file=sys.stderr,
    )
    return 2


def run_module(command: str) -> None:
  """`python -m prompt_jax.<command>` is `prompt-jax <command>`."""
  sys.exit(main([command, *sys.argv[1:]]))


if __name__ == '__main__':
  sys.exit(main())
