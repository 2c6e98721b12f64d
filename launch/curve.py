"""A learning curve: prompt and TF-IDF on the same 16, 64, 256, ... rows."""

from collections.abc import Mapping
import pathlib
from typing import Any

from launch import baselines, subset, tuning
from prompt_jax.tasks import local

METRIC = 'accuracy'
# Batches of the smallest point, so that one compiled step serves them all.
SETTINGS = {'BATCH_SIZE': 16, 'TRAIN_STEPS': 300, 'EVAL_PERIOD': 100}

Curve = dict[int, dict[str, float]]  # {rows: {'prompt', 'tfidf'}}


def point(
  model: str,
  task: local.FileTask,
  n: int,
  seed: int,
  folder: pathlib.Path,
  settings: Mapping[str, Any],
  start: str,
) -> dict[str, float]:
  """Test accuracies in percent after n training rows, the same for both.

  Both choose on the whole validation split: the prompt its step, TF-IDF its C.

  Args:
    model, task, settings, start: as for `tuning.tune`; SETTINGS go over them.
    n, seed: see `subset.choose`.
    folder: of the run.
  """
  pairs = {split: local.examples(task, split) for split in task.files}
  rows = subset.choose([target for _, target in pairs['train']], n, seed)
  small = subset.drawn(
    task,
    f'{task.name}_{n}_{seed}',
    {'train': rows},
    folder,
    keep=('validation', 'test'),
  )
  tuned = tuning.tune(
    model, small, folder / 'run', {**settings, **SETTINGS}, start=start
  )
  test = tuning.evaluate(model, small, folder / 'test', tuned.prompt())
  train = [pairs['train'][row] for row in rows]
  linear = baselines.tfidf(train, pairs['test'], [(train, pairs['validation'])])
  return {'prompt': test[METRIC], 'tfidf': linear.test}


def bars(curve: Curve, floor: float, width: int = 40) -> str:
  """The curve as lines of text, one bar a method and size.

  Args:
    curve: accuracies in percent.
    floor: of the most frequent class, where a line stands in each bar.
    width: characters of 100 percent.
  """
  mark, lines = round(floor * width / 100), []
  for n, found in sorted(curve.items()):
    for name, value in found.items():
      bar = '█' * round(value * width / 100)
      bar = bar.ljust(width, '·')
      bar = bar[:mark] + '│' + bar[mark + 1 :]
      rows = f'{n:,}' if name == 'prompt' else ''
      lines.append(f'{rows:>6} {name:<6} {bar} {value:5.1f}')
  return '\n'.join(lines)


def picture(curve: Curve, floor: float, title: str, file: pathlib.Path) -> bool:
  """Draws the curve into a PNG; False where matplotlib is not installed."""
  try:
    import matplotlib
  except ModuleNotFoundError:
    return False
  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(5, 3.5), layout='constrained')
  sizes = sorted(curve)
  for name in curve[sizes[0]]:
    axes.plot(sizes, [curve[n][name] for n in sizes], marker='o', label=name)
  axes.axhline(floor, color='grey', linestyle=':', label='majority class')
  axes.set_xscale('log')
  axes.set_xticks(sizes, [f'{n:,}' for n in sizes])
  axes.minorticks_off()
  axes.set(xlabel='training examples', ylabel='test accuracy, %', title=title)
  axes.legend()
  figure.savefig(file, dpi=150)
  pyplot.close(figure)
  return True
