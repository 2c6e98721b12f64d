"""The clock of stacked steps, at small sizes."""

import json

import pytest

from benchmarks import sweep

_TINY = [
  '--model=mini',
  '--gin.NUM_EMBEDDINGS=521',
  '--gin.EMBED_DIM=31',
  '--gin.MLP_DIM=37',
  '--gin.NUM_HEADS=3',
  '--gin.HEAD_DIM=7',
  '--dtype=float32',
  '--batch=3',
  '--inputs=11',
  '--targets=5',
  '--repeats=1',
]


@pytest.mark.slow
def test_stacked_computes_what_the_members_do(capsys):
  assert sweep.main([*_TINY, '--members=4', '--together=2']) == 0
  (line,) = capsys.readouterr().out.splitlines()
  row = json.loads(line)
  assert (row['members'], row['together']) == (4, 2)
  # nothing but the masks comes on top
  assert row['flops_ratio'] == pytest.approx(1.0, rel=0.05)
  expected = row['stacked_seconds'] / (4 * row['alone_seconds'])
  assert row['ratio'] == pytest.approx(expected)
  assert row['cpu_ratio'] > 0


def test_bad_input_is_told(capsys):
  assert sweep.main([*_TINY, '--members=0']) == 2
  told = 'sweep.py: --members is 0; expected at least 1.\n'
  assert capsys.readouterr().err == told
