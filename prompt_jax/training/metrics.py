"""Metrics: sums from the steps, rates and ratios at the end, files.

metrics.jsonl       one line a point, the source of truth
tensorboard/        the same values as events
"""

from collections.abc import Mapping
import json
import os
import pathlib
import time

import jax
import numpy as np

from prompt_jax.errors import UserError


class NonFiniteError(UserError):
  """A loss, gradient or parameter is not finite; says which and when."""


def check_finite(step: int, sums: Mapping[str, np.ndarray], paths) -> None:
  """Raises NonFiniteError unless the loss and every leaf are finite.

  Args:
    step: the number of the update, for the message.
    sums: what a train step returned, on the host.
    paths: trainable paths in sorted order, as the flags in `bad` stand.
  """
  bad = [p for p, flag in zip(paths, sums['bad'], strict=True) if flag]
  if not bad and np.isfinite(sums['loss']):
    return
  leaf = f'first bad leaf: {bad[0]}' if bad else 'all gradients are finite'
  raise NonFiniteError(
    f'The loss of step {step} is {float(sums["loss"])} ({leaf}); expected '
    'finite numbers. The last checkpoint is from before this step. Lower the '
    'learning rate in the train table, or clip the gradient.'
  )


class Meter:
  """Adds the sums of steps up in float64 and turns them into metrics."""

  def __init__(self, clock=time.monotonic):
    self._clock = clock
    self._sums: dict[str, float] = {}
    self._steps = 0
    self._since = clock()

  def add(self, sums: Mapping[str, np.ndarray]) -> None:
    for name, value in sums.items():
      if name != 'bad':
        self._sums[name] = self._sums.get(name, 0.0) + float(value)
    self._steps += 1

  def metrics(self) -> dict[str, float]:
    """Means since the last call, and how fast; starts anew.

    Returns: loss and z_loss per real target token (nats), accuracy per
      target token, learning_rate_factor, steps, examples and target tokens
      per second; padding_share of the input positions, where known.
    """
    s, seconds = self._sums, max(self._clock() - self._since, 1e-9)
    weights = max(s['weights'], 1e-9)
    found = {
      'loss': s['loss'] / weights,
      'z_loss': s['z_loss'] / weights,
      'accuracy': s['correct'] / weights,
      'learning_rate_factor': s['rate'] / self._steps,
      'steps_per_second': self._steps / seconds,
      'seqs_per_second': s['sequences'] / seconds,
      'target_tokens_per_second': s['tokens'] / seconds,
    }
    if s.get('input_positions'):
      found['padding_share'] = 1 - s['input_tokens'] / s['input_positions']
    self._sums, self._steps, self._since = {}, 0, self._clock()
    return found

  @property
  def steps(self) -> int:
    return self._steps


class Log:
  """Writes points to metrics.jsonl and to TensorBoard.

  Args:
    folder: the run's MODEL_DIR.
    step: the step the run goes on from; later points of an earlier life of
      the run are dropped, so that no step appears twice.
  """

  def __init__(self, folder: str, step: int = 0):
    self._file = pathlib.Path(folder) / 'metrics.jsonl'
    self._start = time.time()
    self._written: set[tuple[int, str]] = set()
    self._keep_until(step)
    self._events = None
    if jax.process_index() == 0:
      from tensorboardX import SummaryWriter

      self._events = SummaryWriter(
        os.path.join(folder, 'tensorboard'),
        purge_step=step + 1 if step else None,
        # names hold whole seconds; a quick second life must not overwrite
        filename_suffix=f'.{step}',
      )

  def _keep_until(self, step: int) -> None:
    if not self._file.is_file():
      return
    kept = []
    for line in self._file.read_text().splitlines():
      try:
        point = json.loads(line)
        if point['step'] <= step:
          kept.append(line + '\n')
          self._written.add((point['step'], point['group']))
      except (ValueError, KeyError):
        continue  # a line cut short when the process died
    new = self._file.with_suffix('.tmp')
    new.write_text(''.join(kept))
    os.replace(new, self._file)

  def write(self, step: int, group: str, values: Mapping[str, float]) -> None:
    """One point: {'step', 'group', 'seconds', metric: value, ...}.

    A point that is there already stays as it is.
    """
    # the evaluation of the step that a run goes on from may be made again
    if jax.process_index() != 0 or (step, group) in self._written:
      return
    self._written.add((step, group))
    seconds = round(time.time() - self._start, 3)
    point = {'step': step, 'group': group, 'seconds': seconds, **values}
    with self._file.open('a') as file:
      file.write(json.dumps(point) + '\n')
    for name, value in values.items():
      if isinstance(value, int | float):
        self._events.add_scalar(f'{group}/{name}', value, step)

  def close(self) -> None:
    if self._events is not None:
      self._events.close()
