"""Live progress: a bar on a terminal, a line every so often elsewhere."""

from collections.abc import Mapping
import sys
import time


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'


class Progress:
  """Shows step, loss, examples/s and the time left, on stderr.

  Args:
    total: steps of the run. start: step it goes on from.
    title: what is being trained.
  """

  def __init__(self, total: int, start: int = 0, title: str = 'train'):
    self._total, self._start, self._first = total, start, time.monotonic()
    self._title, self._bar = title, None
    if sys.stderr.isatty():
      from rich.console import Console
      from rich.progress import BarColumn, Progress, TextColumn

      self._bar = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.completed}/{task.total} {task.fields[said]}'),
        console=Console(stderr=True),
      )
      self._task = self._bar.add_task(
        title, total=total, completed=start, said=''
      )
      self._bar.start()

  def show(self, step: int, metrics: Mapping[str, float]) -> None:
    """Shows one point of the training metrics."""
    spent = time.monotonic() - self._first
    left = spent / max(step - self._start, 1) * (self._total - step)
    padded = metrics.get('padding_share')
    padded = '' if padded is None else f'padding {100 * padded:.0f} %  '
    said = (
      f'loss {metrics["loss"]:.4f}  accuracy {metrics["accuracy"]:.3f}  '
      f'{metrics["seqs_per_second"]:.1f} examples/s  '
      f'{padded}left {_clock(left)}'
    )
    if self._bar is not None:
      self._bar.update(self._task, completed=step, said=said)
    else:
      print(
        f'{self._title} step {step}/{self._total}  {said}',
        file=sys.stderr,
        flush=True,
      )

  def say(self, text: str) -> None:
    """A line of its own, above the bar."""
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()
