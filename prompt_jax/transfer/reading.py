"""Flags that several actions of `prompt-jax transfer` share."""

import argparse

from prompt_jax.transfer import answers, base, grid, shelf


def add_base(parser: argparse.ArgumentParser) -> None:
  """--base and how it is read."""
  add = parser.add_argument
  add('--base', required=True, help="'mini', or the folder of a checkpoint")
  add('--vocabulary', help='.model file or bytes; default: that of the base')
  add('--activation_dtype', default='float32')
  add(
    '--allow_other_base',
    action='store_true',
    help='take prompts of another base too',
  )


def add_tasks(
  parser: argparse.ArgumentParser,
  metric: str = 'default: accuracy, or else the first of the task',
) -> None:
  """--tasks and how they are read and answered.

  Args: parser: of an action; metric: help of --metric.
  """
  add = parser.add_argument
  add('--tasks', nargs='+', required=True, metavar='TASK')
  add('--module', help='Python module that registers tasks')
  add('--split', default='validation')
  add(
    '--how',
    choices=answers.HOW,
    default='first_token',
    help='compare first tokens of the labels, rank whole labels, or generate',
  )
  add('--input_length', type=int, default=64, help='tokens')
  add('--target_length', type=int, default=8, help='tokens')
  add('--batch_size', type=int, default=64)
  add('--max_examples', type=int, help='the first so many of each task')
  add('--metric', help=metric)


def base_of(args: argparse.Namespace) -> base.Base:
  """The base of `add_base`."""
  return base.load(args.base, args.vocabulary, args.activation_dtype)


def settings_of(args: argparse.Namespace) -> grid.Settings:
  """The settings of `add_tasks`."""
  return grid.Settings(
    split=args.split,
    how=args.how,
    lengths={'inputs': args.input_length, 'targets': args.target_length},
    batch_size=args.batch_size,
    max_examples=args.max_examples,
    metric=args.metric,
    module=args.module,
  )


def prompts_of(args: argparse.Namespace) -> shelf.Shelf:
  """The shelf of --prompts."""
  return shelf.read(args.prompts, getattr(args, 'allow_other_base', False))
