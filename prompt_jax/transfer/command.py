"""The command `prompt-jax transfer`: an action and its flags."""

import argparse
import importlib

_ACTIONS = {
  'matrix': 'evaluate every prompt of a folder on every task',
  'indicators': 'how alike prompts are, and how that goes with transfer',
  'neurons': 'what prompts activate, and what masking that costs',
  'project': 'train a projector of prompts to another base',
  'projected': 'evaluate a projector, and whether it has collapsed',
  'speed': 'steps that an initial value saves',
}


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `prompt-jax transfer`, an action each."""
  actions = parser.add_subparsers(dest='action', required=True)
  for name, help_ in _ACTIONS.items():
    made = actions.add_parser(name, help=help_, allow_abbrev=False)
    # the parser above has it too, and must keep what was said there
    hidden = {'default': argparse.SUPPRESS, 'help': argparse.SUPPRESS}
    made.add_argument('--debug', action='store_true', **hidden)
    module = importlib.import_module(f'prompt_jax.transfer.{name}_action')
    module.flags(made)
    made.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> list[str]:
  """`prompt-jax transfer`. Returns: what it prints at its end."""
  from prompt_jax import compile_cache  # it imports JAX

  compile_cache.keep()
  return args.act(args)
