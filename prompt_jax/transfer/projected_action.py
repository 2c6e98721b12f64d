"""`prompt-jax transfer projected`: what a projector is worth, and why.

    prompt-jax transfer projected --projector runs/projector/projector.npz \
      --base TARGET --prompts prompts_of_source/ --tasks movie_sentiment \
      --output runs/projected --target_prompts prompts_of_target/

OUTPUT/prompts/<task>.npy are prompts of the target base: initial values for
methods/spot.gin, whose run `prompt-jax transfer speed` compares.
"""

import argparse
import math

from prompt_jax.transfer import collapse, projection, reading
from prompt_jax.transfer import shelf as shelves

_KINDS = ('projected', 'shuffled', 'noise', 'random', 'own')


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of the action."""
  add = parser.add_argument
  reading.add_base(parser)
  reading.add_tasks(parser)
  add('--projector', required=True, help='projector.npz')
  add('--prompts', required=True, help='of the source base: folder or .npz')
  add('--output', required=True, help='folder to write')
  add('--target_prompts', help='of the target base, for comparison')
  add('--random_seed', type=int, default=0)


def run(args: argparse.Namespace) -> list[str]:
  """Evaluates. Returns: what is printed."""
  own = args.target_prompts
  found = projection.evaluate(
    args.projector,
    reading.base_of(args),
    reading.prompts_of(args),
    args.tasks,
    args.output,
    reading.settings_of(args),
    own and shelves.read(own, args.allow_other_base),
    args.random_seed,
    args.allow_other_base,
  )
  return [*table(found), '', *collapse.report(found.diagnostic), args.output]


def table(found: projection.Evaluated) -> list[str]:
  """Scores of a projector as lines."""
  first = max(map(len, ('task', *found.scores)))
  head = '  '.join(f'{kind:>9}' for kind in (*_KINDS, 'relative'))
  lines = [f'{"task":{first}}  {head}']
  for task, scores in found.scores.items():
    cells = [scores.get(kind, math.nan) for kind in _KINDS]
    own = scores.get('own', math.nan) or math.nan
    cells.append(scores['projected'] / own)
    said = ['-' if math.isnan(x) else f'{x:.1f}' for x in cells[:-1]]
    said.append('-' if math.isnan(cells[-1]) else f'{cells[-1]:.2f}')
    lines.append('  '.join([f'{task:{first}}', *(f'{c:>9}' for c in said)]))
  return lines
