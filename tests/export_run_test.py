"""`prompt-jax export`: which checkpoint, where to, and as what."""

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from prompt_jax.export_run import export_run
from prompt_jax.prompts import saved
from tests import tiny


def test_prompts_of_the_newest_checkpoint(tmp_path):
  run = tiny.trained()
  out = tmp_path / 'out'
  (written,) = export_run(run.configured(), str(out), None, False, 'float32')
  expected, _ = saved.load(str(run.prompt))
  np.testing.assert_array_equal(saved.load(written)[0], expected)


def test_a_step_that_is_not_there(tmp_path):
  run = tiny.trained()
  with pytest.raises(UserError, match='has the checkpoints .*; expected 77'):
    export_run(run.configured(), str(tmp_path / 'out'), 77, False, 'float32')


def test_an_output_that_exists(tmp_path):
  run = tiny.trained()
  with pytest.raises(UserError, match='expected a new folder for --output'):
    export_run(run.configured(), str(tmp_path), None, False, 'float32')


def test_no_gin_file_is_told_with_a_command(capsys):
  assert cli.main(['export', '--output=nowhere']) == 2
  assert 'No --gin_file was given' in capsys.readouterr().err
