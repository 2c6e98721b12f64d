"""`prompt-jax transfer project`: train a projector between two bases.

    prompt-jax transfer project --base TARGET --prompts prompts_of_source/ \
      --tasks movie_sentiment gloss_pos --output runs/projector

By the task loss of the target model, with --target_prompts by distance to
them, or by both (--objective both: the distance is added to the task loss).
What is printed at the end says whether it has collapsed, see `collapse`, over
all of --prompts: some that it is not trained on show most.
By distance no model is run. What says how tasks are read (--split, --how and
their like) may be given all the same, as to all actions; what trains by task
is refused.
"""

import argparse

from prompt_jax.errors import UserError
from prompt_jax.transfer import cross_model, distance, projection, reading
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer import shelf as shelves

_BY_TASK = ('task', 'both')
_READ_BY = {  # the objectives that read a flag, where not all do
  'weight': ('both',),
  'eval_period': _BY_TASK,
  'batch_size': _BY_TASK,
  'activation_dtype': _BY_TASK,
  'metric': (),
}


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of the action."""
  add = parser.add_argument
  reading.add_base(parser)
  reading.add_tasks(parser, metric=argparse.SUPPRESS)
  add('--prompts', required=True, help='of the source base: folder or .npz')
  add('--output', required=True, help='folder to write; goes on from there')
  add('--target_prompts', help='of the target base: trains by distance')
  add(
    '--objective',
    choices=('task', 'distance', 'both'),
    help='default: task, or distance where there are --target_prompts',
  )
  add('--weight', type=float, default=1.0, help='of the distance, of both')
  add('--length', type=int, help='rows to make; default: those of the source')
  add('--hidden', type=int, default=768, help='units; 0 is a single layer')
  add('--activation', choices=projectors.ACTIVATIONS, default='leaky_relu')
  add('--no_norm', action='store_true', help='no LayerNorm at the end')
  add('--per_row', action='store_true', help='map each row alone')
  add('--scaled', action='store_true', help='divide sources by their norm')
  add('--kernels', choices=projectors.INITS, default='uniform')
  add('--blind', action='store_true', help='train on zeros: the baseline')
  add('--steps', type=int, default=1000)
  add('--rate', type=float, help='default: 0.005 by task, 1e-4 by distance')
  add(
    '--train_batch_size',
    type=int,
    default=16,
    help='examples of a step; by distance: tasks',
  )
  add('--eval_period', type=int, default=0, help='steps; 0: at the end')
  add('--random_seed', type=int, default=0)
  usual = {name: parser.get_default(name) for name in _READ_BY}
  # None until it is known whether they were given, see `_check_given`
  parser.set_defaults(**dict.fromkeys(usual), usual=usual, how='rank')


def run(args: argparse.Namespace) -> list[str]:
  """Trains. Returns: what is printed."""
  objective = _objective(args)
  _check_given(args, objective)
  base = reading.base_of(args)
  prompts = reading.prompts_of(args)
  source = prompts.only(args.tasks)
  length = args.length or source.length
  network = projectors.Projector(
    length,
    base.config.d_model,
    args.hidden or None,
    args.activation,
    not args.no_norm,
    not args.per_row,
    args.scaled,
    args.kernels,
  )
  network.check()
  by_task = objective in _BY_TASK
  usual = cross_model.TASK_RATE if by_task else distance.RATE
  training = cross_model.Training(
    args.steps,
    usual if args.rate is None else args.rate,
    args.train_batch_size,
    args.eval_period,
    args.random_seed,
    args.blind,
    args.weight,
  )
  target = None
  if objective != 'task':
    target = shelves.read(args.target_prompts, args.allow_other_base)
  looked_at = (base, prompts, args.allow_other_base)
  if by_task:
    settings = reading.settings_of(args)
    path = cross_model.train_by_task(
      base, source, network, args.output, training, settings, target
    )
    return [*projection.look(path, *looked_at), str(path)]
  path, losses = cross_model.train_by_distance(
    *(base, source, target, network, args.output, training),
    allow_other_base=args.allow_other_base,
  )
  first, last = losses[:1], losses[-1:]
  said = f'mean square {first[0]:.4g} -> {last[0]:.4g}' if losses else 'no step'
  lines = [f'{said} in {len(losses)} steps']
  return [*lines, *projection.look(path, *looked_at), str(path)]


def _objective(args) -> str:
  """'task', 'distance' or 'both'; raises UserError if prompts are missing."""
  given = args.target_prompts is not None
  asked = args.objective or ('distance' if given else 'task')
  if given != (asked != 'task'):
    has, want = ('there are', 'none') if given else ('there are no', 'some')
    raise UserError(
      f'--objective is {asked} and {has} --target_prompts; expected {want}. '
      "Give the folder of the target base's own prompts with distance or "
      'both, and leave it out with task.'
    )
  return asked


def _check_given(args, objective: str) -> None:
  """Puts in the defaults of `_READ_BY`.

  Raises: UserError for a flag that the objective does not read.
  """
  odd = []
  for name, usual in args.usual.items():
    if getattr(args, name) is None:
      setattr(args, name, usual)
    elif objective not in _READ_BY[name]:
      readers = ' or '.join(_READ_BY[name]) or 'none: `projected` reads it'
      odd.append(f'--{name} (read by {readers})')
  if odd:
    raise UserError(
      f'The objective is {objective}, which does not read {", ".join(odd)}; '
      f'expected flags of {objective} alone. Leave them out, or give another '
      '--objective.'
    )
  if objective in _BY_TASK and args.how == 'first_token':
    raise UserError(
      '--how is first_token; expected rank or generate, the ways in which a '
      'run that trains a projector evaluates. Leave it out, or give it to '
      '`prompt-jax transfer projected`.'
    )
