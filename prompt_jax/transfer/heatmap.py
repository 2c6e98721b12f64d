"""Figures of a transfer study; matplotlib draws them, the extra `plot`."""

from collections.abc import Mapping, Sequence
import os
import pathlib

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.transfer.matrix import Matrix

_INCHES = 0.45  # a cell of a heat map


def _figure(width: float, height: float):
  """An empty figure and its axes; raises UserError without matplotlib."""
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise UserError(
      'There is no matplotlib to draw with; expected the extra `plot`: pip '
      'install prompt_jax[plot]. Or leave --plot out; the tables are written '
      'either way.'
    ) from error
  figure = Figure(figsize=(width, height), layout='constrained')
  return figure, figure.subplots()


def _save(figure, path: str | os.PathLike) -> None:
  path = pathlib.Path(path).expanduser()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)


def draw(
  matrix: Matrix, path: str | os.PathLike, title: str = '', decimals: int = 2
) -> None:
  """A heat map: target tasks down, source prompts across, scores in cells.

  Args:
    matrix: what to draw.
    path: .png, .svg or .pdf.
    title: above it.
    decimals: of the numbers in the cells.
  """
  rows, columns = matrix.scores.shape
  size = (_INCHES * columns + 2.5, _INCHES * rows + 2.0)
  figure, axes = _figure(*size)
  image = axes.imshow(matrix.scores, cmap='viridis', aspect='auto')
  axes.set_xticks(range(columns), matrix.prompts, rotation=60, ha='right')
  axes.set_yticks(range(rows), matrix.tasks)
  axes.set_xlabel('source prompt')
  axes.set_ylabel('target task')
  axes.set_title(title)
  known = matrix.scores[np.isfinite(matrix.scores)]
  middle = (known.min() + known.max()) / 2 if len(known) else 0.0
  for (i, j), value in np.ndenumerate(matrix.scores):
    if np.isfinite(value):
      said = f'{value:.{decimals}f}'
      color = 'black' if value > middle else 'white'
      axes.text(j, i, said, ha='center', va='center', color=color, fontsize=6)
  figure.colorbar(image, ax=axes)
  _save(figure, path)


def draw_neurons(values: np.ndarray, path: str | os.PathLike, title: str = ''):
  """Activated neurons, layers down and neurons across: [L,F]."""
  figure, axes = _figure(10, 0.25 * len(values) + 1.5)
  axes.imshow(values, cmap='Greys', aspect='auto', interpolation='nearest')
  axes.set_xlabel('neuron')
  axes.set_ylabel('layer')
  axes.set_title(title)
  _save(figure, path)


def draw_curves(
  curves: Mapping[str, Sequence[float]],
  path: str | os.PathLike,
  across: Sequence[float],
  labels: tuple[str, str],
) -> None:
  """Lines over one axis.

  Args:
    curves: {name: values}.
    path: .png, .svg or .pdf.
    across: where the values stand.
    labels: of the two axes.
  """
  figure, axes = _figure(6, 4)
  for name, values in curves.items():
    axes.plot(across, values, marker='o', label=name)
  axes.set_xlabel(labels[0])
  axes.set_ylabel(labels[1])
  axes.legend()
  _save(figure, path)
