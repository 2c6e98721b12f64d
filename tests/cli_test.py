"""The command line: flags, exit codes, and what stderr gets."""

import errno
import sys

import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from tests import tiny


@pytest.fixture
def raises(monkeypatch):
  """Makes the command raise."""

  def make(error):
    def run(args):
      raise error

    monkeypatch.setattr(cli, '_run', run)

  return make


def test_bad_input_is_a_paragraph_and_status_2(raises, capsys):
  raises(UserError('X is 3; expected 4.\n  In call to configurable Run (...)'))
  assert cli.main(['train']) == 2
  out, err = capsys.readouterr()
  assert (out, err) == ('', 'prompt-jax: X is 3; expected 4.\n')


def test_debug_shows_the_traceback(raises):
  raises(UserError('X is 3'))
  with pytest.raises(UserError, match='X is 3'):
    cli.main(['train', '--debug'])


def test_our_own_mistakes_are_not_hidden(raises):
  raises(ValueError('a bug'))
  with pytest.raises(ValueError, match='a bug'):
    cli.main(['train'])


def test_a_folder_that_cannot_be_written(raises, capsys):
  raises(OSError(errno.ENOSPC, 'No space left on device', '/disk/a'))
  assert cli.main(['train']) == 2
  said = capsys.readouterr().err
  assert said.startswith(
    'prompt-jax: /disk/a cannot be written or read: No space'
  )
  raises(OSError(errno.EIO, 'Input/output error'))
  with pytest.raises(OSError, match='Input/output'):
    cli.main(['train'])


@pytest.mark.parametrize('command', ['train', 'eval', 'infer', 'export'])
def test_no_gin_file(command, capsys):
  more = ['--output=there'] if command == 'export' else []
  assert cli.main([command, *more]) == 2
  said = capsys.readouterr().err
  assert 'No --gin_file was given; expected a model, a method and a run' in said


@pytest.mark.parametrize(
  ('flag', 'instead'),
  [
    ('--output_dir=x', '--gin.MODEL_DIR=...'),
    ('--max_steps=3', '--gin.TRAIN_STEPS=...'),
    ('--learning_rate=3', '--gin.LEARNING_RATE=...'),
    ('--resume_from_checkpoint', 'the same command again'),
  ],
)
def test_flags_of_another_trainer(flag, instead, capsys):
  assert cli.main(['train', flag]) == 2
  said = capsys.readouterr().err
  assert f'{flag.split("=")[0]} is not a flag of this command' in said
  assert instead in said


def test_unknown_flags_and_commands_show_the_usage(capsys):
  for argv in ['train', '--gin_fil=x'], ['trian'], []:
    with pytest.raises(SystemExit) as caught:
      cli.main(argv)
    assert caught.value.code == 2
    assert 'usage: prompt-jax' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['train', 'eval', 'infer', 'export'])
def test_help_holds_a_whole_command(command, capsys):
  with pytest.raises(SystemExit) as caught:
    cli.main([command, '--help'])
  assert caught.value.code == 0
  said = capsys.readouterr().out
  assert '--gin_file=models/mini.gin' in said and 'NAME=VALUE' in said


def test_dry_run_shows_the_configuration_and_computes_nothing(tmp_path, capsys):
  tiny.write_files(tmp_path / 'files')
  flags = tiny.flags(tmp_path / 'files', tmp_path / 'run')
  assert cli.main([*flags, '--dry_run']) == 0
  said = capsys.readouterr().out
  assert 'Run.model_dir' in said and 'Adafactor' not in said
  assert not (tmp_path / 'run').exists()


def test_a_module_is_its_command(monkeypatch):
  given = []
  monkeypatch.setattr(cli, 'main', lambda argv: given.append(argv) or 7)
  monkeypatch.setattr(sys, 'argv', ['eval.py', '--gin_file=a'])
  with pytest.raises(SystemExit) as caught:
    cli.run_module('eval')
  assert caught.value.code == 7 and given == [['eval', '--gin_file=a']]
