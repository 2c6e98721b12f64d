"""`prompt-jax transfer neurons`: what prompts activate, and what masking costs.

    prompt-jax transfer neurons --base mini --prompts prompts/ \
      --tasks movie_sentiment gloss_pos --ratios 0.1 0.3 --output runs/neurons
"""

import argparse
import functools
import pathlib

import numpy as np

from prompt_jax.transfer import heatmap, masked, reading, stimulation


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of the action."""
  add = parser.add_argument
  reading.add_base(parser)
  reading.add_tasks(parser)
  add('--prompts', required=True, help='a prompt for each task: folder or .npz')
  add('--output', required=True, help='folder to write')
  add('--ratios', type=float, nargs='+', default=[0.2], help='shares to mask')
  add('--draws', type=int, default=3, help='random masks of each size')
  add('--others', type=int, help='other tasks to take masks of, at most')
  add('--stack', choices=('encoder', 'decoder'), default='decoder')
  add('--position', type=int, default=0, help='to record; -1 is the last')
  add('--random_seed', type=int, default=0, help='of the random masks')
  add('--plot', action='store_true', help='figures too (needs matplotlib)')


def run(args: argparse.Namespace) -> list[str]:
  """Records and masks. Returns: what is printed."""
  base, shelf = reading.base_of(args), reading.prompts_of(args)
  where = stimulation.Where(args.stack, args.position)
  folder = pathlib.Path(args.output).expanduser()
  found = masked.run(
    base,
    shelf,
    args.tasks,
    folder,
    reading.settings_of(args),
    where,
    masked.Experiment(args.ratios, args.draws, args.others, args.random_seed),
    allow_other_base=args.allow_other_base,
    say=functools.partial(print, flush=True),
  )
  lines = ['', 'score, percent', *masked.table(found), '']
  if args.plot:
    lines += _figures(found, folder)
  return [*lines, str(folder / 'masked.json'), str(folder / 'neurons.npz')]


def _figures(found, folder: pathlib.Path) -> list[str]:
  """Draws the neurons and the scores of every task; the files."""
  paths = []
  with np.load(folder / 'neurons.npz') as stored:
    for name in stored.files:
      paths.append(folder / f'{name.replace("/", "_")}.png')
      heatmap.draw_neurons(stored[name] > 0, paths[-1], f'{name}, active')
  for task, said in found.items():
    rows = said['masked']
    curves = {
      'own': [row['own'] for row in rows],
      'random': [np.mean(row['random']) for row in rows],
      'other': [
        np.mean(list(row['other'].values()) or [np.nan]) for row in rows
      ],
    }
    curves = {k: [said['none'], *values] for k, values in curves.items()}
    paths.append(folder / f'{task}_masked.png')
    across = [0, *(row['ratio'] for row in rows)]
    labels = ('share of neurons masked', f'{task}, score in percent')
    heatmap.draw_curves(curves, paths[-1], across, labels)
  return [str(path) for path in paths]
