"""The clock of decoding, at small sizes."""

import json

import pytest

from benchmarks import decode

_TINY = [
  '--model=mini',
  '--gin.NUM_EMBEDDINGS=521',
  '--gin.EMBED_DIM=31',
  '--gin.MLP_DIM=37',
  '--gin.NUM_HEADS=3',
  '--gin.HEAD_DIM=29',
  '--gin.NUM_ENCODER_LAYERS=1',
  '--prompt_length=7',
  '--dtype=float32',
  '--batch=3',
  '--inputs=11',
  '--targets=2',
  '--beams=2',
  '--repeats=1',
]


@pytest.mark.slow
def test_decoding_is_timed_with_keys_and_without(capsys):
  assert decode.main(_TINY) == 0
  row = json.loads(capsys.readouterr().out)
  assert row['seconds'].keys() == row['cpu_seconds'].keys()
  assert {'encode', 'greedy', 'greedy_kept', 'beam'} < row['seconds'].keys()
  for name in ('greedy', 'beam'):
    seconds = row['seconds']
    expected = seconds[name] / seconds[f'{name}_kept']
    assert row[f'{name}_ratio'] == pytest.approx(expected)
  assert (row['targets'], row['dtype']) == (2, 'float32')


def test_bad_input_is_told(capsys):
  assert decode.main([*_TINY, '--beams=0']) == 2
  told = 'decode.py: --beams is 0; expected at least 1.\n'
  assert capsys.readouterr().err == told
