"""The clock of length buckets, on a few steps."""

import json

import pytest

from benchmarks import buckets


@pytest.mark.slow
def test_both_kinds_see_the_same_examples_at_other_lengths(tmp_path, capsys):
  file = tmp_path / 'buckets.jsonl'
  argv = ['--inputs=29', '--steps=4', '--block=2', '--json', str(file)]
  argv += ['--gin.PROMPT_LENGTH=3', '--gin.EVAL_STEPS=1']
  buckets.main([*argv, '--gin.ACTIVATION_DTYPE="float32"'])
  (line,) = file.read_text().splitlines()
  found = json.loads(line)
  assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
  assert found['steps'] == 4 and found['targets'] == 2
  assert len(found['lengths']) > 1 and max(found['lengths']) <= 29
  padding = found['padding_share']
  assert padding['buckets'] < padding['one shape'] < 1
  pace = found['examples_per_second']
  ratio = pace['buckets'] / pace['one shape']
  assert found['ratio'] == pytest.approx(ratio)
  assert found['ratio_min'] <= found['ratio_median'] <= found['ratio_max']
  # the same examples in the same order, so the same prompt but for rounding
  one, two = found['metrics'].values()
  assert one['accuracy'] == pytest.approx(two['accuracy'], abs=2)
