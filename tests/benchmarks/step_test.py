"""The benchmark prints what it promises, and counts what a step does."""

import json

import gin
import pytest

from benchmarks import step, table
from prompt_jax.t5.config import T5Config
from prompt_jax.training.flops import step_flops

_TINY = [
  '--model=mini',
  '--gin.NUM_EMBEDDINGS=521',
  '--gin.EMBED_DIM=257',
  '--gin.MLP_DIM=509',
  '--gin.NUM_HEADS=3',
  '--gin.HEAD_DIM=67',
  '--batch=3',
  '--inputs=11',
  '--targets=5',
  '--repeats=1',
  '--peak_size=67',
]
_KEYS = {
  *('model', 'method', 'batch', 'inputs', 'targets', 'prompt_length'),
  *('dtype', 'padding', 'repeats', 'seed', 'bindings', 'date', 'jax'),
  *('device', 'cores', 'tunables', 'tokens_per_second', 'seconds_min'),
  *('seconds_median', 'seconds_max', 'compile_seconds', 'flops'),
  *('flops_per_second', 'peak_flops_per_second', 'utilisation'),
  *('peak_bytes', 'max_rss_bytes', 'trainable', 'total'),
}


def _measured(capsys, *flags):
  """The line that main prints; exactly one, and nothing else on stdout."""
  assert step.main([*_TINY, *flags]) == 0
  printed = capsys.readouterr()
  (line,) = printed.out.splitlines()
  assert 'tokens_per_second' in printed.err
  return json.loads(line)


def _config():
  """The shapes of the last measured step."""
  return gin.get_configurable(T5Config)()


def _refused(capsys, *flags):
  assert step.main([*_TINY, *flags]) == 2
  printed = capsys.readouterr()
  assert printed.out == ''
  return printed.err


@pytest.mark.slow
def test_a_prompt_step(capsys, tmp_path):
  file = tmp_path / 'made' / 'step.jsonl'
  flags = ['--method=prompt', '--prompt_length=7', f'--json={file}']
  row = _measured(capsys, *flags)
  assert row.keys() == _KEYS
  assert [json.loads(line) for line in file.read_text().splitlines()] == [row]
  assert row['prompt_length'] == 7
  assert row['trainable'] == 7 * 257
  seconds = row['seconds_median']
  assert row['seconds_min'] == seconds == row['seconds_max'] > 0
  # the prompt is not counted
  assert row['tokens_per_second'] * seconds == pytest.approx(3 * (11 + 5))
  assert row['flops_per_second'] * seconds == pytest.approx(row['flops'])
  share = row['flops_per_second'] / row['peak_flops_per_second']
  assert row['utilisation'] == pytest.approx(share)
  counted = step_flops(_config(), batch=3, inputs=11, targets=5, prompt=7)
  assert row['flops'] == pytest.approx(counted, rel=0.05)
  # the frozen base in bfloat16 is an argument of the program
  frozen = row['total'] - row['trainable']
  assert 2 * frozen < row['peak_bytes'] < row['max_rss_bytes']


@pytest.mark.slow
def test_padding_is_not_counted_and_full_tuning_has_no_prompt(capsys):
  flags = ['--method=full', '--padding=0.5', '--dtype=float32', '--random=3']
  row = _measured(capsys, *flags)
  assert row['prompt_length'] == 0
  assert row['seed'] == 3
  assert row['trainable'] == row['total']
  assert 'EMBED_DIM=257' in row['bindings']
  # half of 11 and half of 5 positions, rounded to even
  tokens = row['tokens_per_second'] * row['seconds_median']
  assert tokens == pytest.approx(3 * (6 + 2))


def test_bad_input_is_told(capsys):
  told = _refused(capsys, '--repeats=0')
  assert told == 'step.py: --repeats is 0; expected at least 1.\n'
  assert 'expected the share of positions' in _refused(capsys, '--padding=1')
  assert 'methods/prompt.gin' in _refused(capsys, '--method=promt')
  told = _refused(capsys, '--method=full', '--gin.train.Run.microbatches=3')
  assert 'Run.microbatches is 3; expected 1' in told


def test_table_has_a_row_a_line():
  row = dict.fromkeys(_KEYS, 2.0) | {
    'model': 'mini',
    'method': 'prompt',
    'dtype': 'bfloat16',
    'repeats': 7,
    'tokens_per_second': 12345.6,
    'utilisation': 0.437,
    'bindings': [],
    'tunables': '',
  }
  changed = row | {'bindings': ['EMBED_DIM=29']}
  small = row | {'tunables': 'glibc.malloc.hugetlb=0'}
  assert table.table([small]).splitlines()[2].endswith('| hugetlb=0 |')
  assert 'gin' not in table.table([row]).splitlines()[0]
  head, rule, first, second = table.table([row, changed]).splitlines()
  assert head.startswith('| model | method |') and head.endswith('| gin |')
  assert head.count('|') == rule.count('|') == first.count('|')
  assert '| 12,346 |' in first and '| 43.7% |' in first
  assert second.endswith('| EMBED_DIM=29 |')
