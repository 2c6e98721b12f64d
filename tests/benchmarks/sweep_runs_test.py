"""The clock of whole sweeps and runs, on two steps."""

import json

import pytest

from benchmarks import sweep_runs
from tests.launch import small


@pytest.mark.slow  # two processes
def test_commands_are_timed_and_their_prompts_compared(capsys):
  argv = ['--model', small.model(), '--members=1', '--steps=2', '--rounds=1']
  argv += ['--batch=8', '--gin.PROMPT_LENGTH=3', '--gin.EVAL_STEPS=1']
  assert sweep_runs.main([*argv, '--gin.ACTIVATION_DTYPE="float32"']) == 0
  (line,) = capsys.readouterr().out.splitlines()
  row = json.loads(line)
  (sweep,), (runs,), (ratio,) = (
    row[name] for name in ('sweep_seconds', 'runs_seconds', 'ratio')
  )
  assert sweep > 1 and runs > 1  # a process each
  assert ratio == pytest.approx(sweep / runs)
  assert 0 <= row['difference'] < 1e-5


@pytest.mark.parametrize(
  'flag, told',
  [
    ('--members=0', '--members is 0; expected at least 1.'),
    ('--rounds=0', '--rounds is 0; expected at least 1.'),
  ],
)
def test_bad_input_is_told(capsys, flag, told):
  assert sweep_runs.main([flag]) == 2
  assert capsys.readouterr().err == f'sweep_runs.py: {told}\n'


@pytest.mark.slow  # a process
def test_a_command_that_fails_ends_it(capsys):
  assert sweep_runs.main(['--members=1', '--task=no_such_task']) == 2
  told = capsys.readouterr().err
  assert 'prompt_jax.sweep' in told and 'no_such_task' in told
