"""Figures, where matplotlib is there, and the words where it is not."""

import sys

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import heatmap
from prompt_jax.transfer.matrix import Matrix


def test_without_matplotlib(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
  with pytest.raises(UserError, match=r'pip install prompt_jax\[plot\]'):
    heatmap.draw(Matrix(('a',), ('a',), np.ones((1, 1))), tmp_path / 'm.png')


def test_figures(tmp_path):
  pytest.importorskip('matplotlib')
  scores = np.array([[1.0, np.nan, 0.3], [0.5, 1.0, 0.2]])
  table = Matrix(('a', 'b'), ('a', 'b', 'random'), scores)
  heatmap.draw(table, tmp_path / 'deep' / 'm.svg', 'relative')
  assert '<svg' in (tmp_path / 'deep' / 'm.svg').read_text()
  heatmap.draw_neurons(scores > 0.4, tmp_path / 'n.png')
  curves = {'own': [3, 2], 'random': [3, 2.5]}
  heatmap.draw_curves(curves, tmp_path / 'c.png', [0, 0.2], ('share', 'score'))
  assert (tmp_path / 'c.png').stat().st_size > 0
