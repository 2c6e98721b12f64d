"""`prompt-jax transfer matrix`: every prompt on every task.

    prompt-jax transfer matrix --base mini --prompts prompts/ \
      --tasks movie_sentiment gloss_pos --output runs/transfer
"""

import argparse
import functools
import pathlib

from prompt_jax.transfer import cross_task, heatmap, reading
from prompt_jax.transfer.matrix import by_type, read_types


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of the action."""
  add = parser.add_argument
  reading.add_base(parser)
  reading.add_tasks(parser)
  add('--prompts', required=True, help='folder of <task>.npy, or an .npz')
  add('--output', required=True, help='folder to write; goes on from there')
  add('--types', help='JSON {type: [task, ...]}, for means by type')
  add(
    '--corrected',
    action='store_true',
    help='relative scores count from that of one answer to all examples',
  )
  add('--random_seed', type=int, default=0, help='of the random prompt')
  add('--plot', action='store_true', help='heat maps too (needs matplotlib)')


def run(args: argparse.Namespace) -> list[str]:
  """Evaluates. Returns: what is printed."""
  types = read_types(args.types) if args.types else None
  shelf = reading.prompts_of(args)
  if 'random' not in shelf.names:
    shelf = shelf.plus_random(args.random_seed)
  found = cross_task.evaluate(
    reading.base_of(args),
    shelf,
    args.tasks,
    args.output,
    reading.settings_of(args),
    allow_other_base=args.allow_other_base,
    say=functools.partial(print, flush=True),
  )
  folder = pathlib.Path(args.output).expanduser()
  relative = found.relative(args.corrected)
  name = 'corrected' if args.corrected else 'relative'
  lines = ['', 'score, percent (target down, prompt across)', *found.table()]
  floor = ', from one answer to all on' if args.corrected else ''
  lines += ['', f'relative to the own prompt{floor}', *relative.table(2)]
  if types:
    lines += ['', 'mean relative score of foreign prompts']
    means = by_type(found, types, args.corrected).items()
    lines += [f'{group:16} {value:.3f}' for group, value in means]
  lines += ['', str(folder / 'matrix.csv'), str(folder / f'{name}.csv')]
  if args.plot:
    for drawn, each in ('matrix', found), (name, relative):
      heatmap.draw(each, folder / f'{drawn}.png', f'{drawn} on {args.base}')
      lines.append(str(folder / f'{drawn}.png'))
  return lines
