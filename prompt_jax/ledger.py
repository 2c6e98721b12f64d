"""What the stages of a run cost, and what that saves.

MODEL_DIR/stages.json   a row a stage: what it keeps, its share of the whole
                        model's products, FLOPs of a step as compiled, seconds;
                        and what the run has saved so far, over all its lives
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import jax

from prompt_jax import export, files
from prompt_jax.stages import Parts
from prompt_jax.training.flops import forward_products

_SPENT = ('flops', 'timed_steps', 'seconds')


class Ledger:
  """The account of a run.

  Args:
    run: the `train.Run`.
    parts: the models of its stages.
    start: updates made before; the account of those is gone on with.
  Attributes:
    now: {'stages': rows, 'saved': {'products', 'flops', 'seconds'}}; the last
      are shares of what as many steps of the whole model cost, None where a
      figure is not known, as where the whole model never trained.
  """

  def __init__(self, run, parts: Parts, start: int):
    self._file, self._schedule = run.folder / 'stages.json', run.staging
    lengths = _lengths(run)
    whole = forward_products(run.model.config, *lengths)
    earlier = _read(self._file) if start else []
    self._rows = []
    for i, kept in enumerate(run.staging.cuts):
      products = forward_products(parts.model(i).config, *lengths)
      row = {
        'start': run.staging.starts[i],
        'keeps': 'all' if kept.is_whole else str(kept),
        'products': products,
        'share': products / whole,
        **dict(zip(_SPENT, (None, 0, 0.0), strict=True)),
      }
      before = earlier[i] if i < len(earlier) else {}
      if before.get('keeps') == row['keeps']:
        row.update({name: before[name] for name in _SPENT})
      self._rows.append(row)
    self._spent: Mapping[int, Mapping] = {}
    self.now = self._after({}, start)

  def settle(self, spent: Mapping[int, Mapping], step: int) -> None:
    """Writes the account.

    Args:
      spent: in this life so far, `Staged.rows`.
      step: updates made in all.
    """
    self._spent = spent
    self.now = self._after(spent, step)
    if jax.process_index() == 0:
      files.write_json(self._file, self.now)

  def pace(self) -> float:
    """Steps a second in this life, evaluations and compiling left out."""
    seconds = sum(row['seconds'] for row in self._spent.values())
    steps = sum(row['timed_steps'] for row in self._spent.values())
    return steps / seconds if seconds else 0.0

  def _after(self, spent, step: int) -> dict[str, Any]:
    rows = [dict(row) for row in self._rows]
    for i, row in enumerate(rows):
      if i in spent:
        row['flops'] = spent[i]['flops']
        for name in ('timed_steps', 'seconds'):
          row[name] += spent[i][name]
    made = [
      max(0, min(step, self._schedule.end(i)) - row['start'])
      for i, row in enumerate(rows)
    ]
    paces = [
      row['seconds'] / row['timed_steps'] if row['timed_steps'] else None
      for row in rows
    ]
    flops = [row['flops'] for row in rows]
    whole = [i for i, kept in enumerate(self._schedule.cuts) if kept.is_whole]
    of_whole = lambda costs: costs[whole[-1]] if whole else None
    saved = {
      'products': _saved([row['share'] for row in rows], made, 1.0),
      'flops': _saved(flops, made, of_whole(flops)),
      'seconds': _saved(paces, made, of_whole(paces)),
    }
    return {'stages': rows, 'saved': saved}

  def say(self) -> None:
    """Prints what was saved, where there were parts of the model."""
    if self._schedule.is_plain:
      return
    names = {
      'products': 'products',
      'flops': 'FLOPs as compiled',
      'seconds': 'seconds',
    }
    said = [
      f'{100 * share:.1f} % of the {names[key]}'
      for key, share in self.now['saved'].items()
      if share is not None
    ]
    if said:
      print(f'saved {", ".join(said)}, against the whole model all along')


def _lengths(run) -> tuple[int, int]:
  """Positions of the two stacks, prompts included."""
  found = dict(run.dataset.task_feature_lengths)
  places = {'encoder': 'inputs', 'decoder': 'targets'}
  for stack, source in export.sources(run.model).items():
    depth = getattr(run.model, f'{stack}_depth', 1)
    found[places[stack]] += source.length // depth
  return found['inputs'], found['targets']


def _saved(costs, steps, whole) -> float | None:
  """1 - (what steps cost) / (what they cost in the whole model)."""
  total = sum(steps)
  known = all(c is not None for c, n in zip(costs, steps, strict=True) if n)
  if not known or not whole or not total:
    return None
  spent = sum(c * n for c, n in zip(costs, steps, strict=True) if n)
  return 1 - spent / (whole * total)


def _read(file: pathlib.Path) -> list[dict]:
  """The rows of an earlier life; [] where they cannot be read."""
  try:
    return json.loads(file.read_text())['stages']
  except (OSError, ValueError, KeyError):
    return []  # figures alone: the run goes on without them
