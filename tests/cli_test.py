"""The command line: flags, exit codes, and what stderr gets."""

import errno
import json
import runpy
import sys

import numpy as np
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


def using(command, folder, *more, method='methods/prompt.gin'):
  """Arguments of eval or infer with a method file, over a tiny base."""
  files = [
    *(f'{folder}/files/model.gin', f'{folder}/files/task.gin'),
    *(method, f'runs/{command}.gin'),
  ]
  tiny.write_files(folder / 'files')
  (folder / 'rows.jsonl').write_text('{"text": "film 4"}\n{"text": "film 5"}\n')
  np.save(folder / 'films.npy', np.ones((3, 7), np.float32))
  settings = {
    'INITIAL_CHECKPOINT_PATH': tiny.base(),
    'PROMPT_FILE': folder / 'films.npy',
    'TASK_FEATURE_LENGTHS': {'inputs': 13, 'targets': 5},
    'MIXTURE_OR_TASK_NAME': '@local.FileTask()',
    'ACTIVATION_DTYPE': 'float32',
  }
  if command == 'eval':
    settings |= {'SPLIT': 'validation', 'EVAL_OUTPUT_DIR': folder / 'out'}
  else:
    more = [*more, '--input', f'{folder}/rows.jsonl', '--output']
    more += [f'{folder}/said.jsonl']
  return [
    command,
    *(part for file in files for part in ('--gin_file', file)),
    *(f'--gin.{name}={value}' for name, value in settings.items()),
    *more,
  ]


@pytest.mark.slow
def test_eval_and_infer_take_the_method_file(tmp_path):
  assert cli.main(using('infer', tmp_path, '--gin.PROMPT_LENGTH=3')) == 0
  rows = [
    json.loads(line)
    for line in (tmp_path / 'said.jsonl').open(encoding='utf-8')
  ]
  assert [row['text'] for row in rows] == ['film 4', 'film 5']
  assert set(rows[0]['scores']) == {'no', 'yes'}
  assert cli.main(using('eval', tmp_path)) == 0
  (about,) = (tmp_path / 'out').glob('*.json')
  assert json.loads(about.read_text())['examples'] == 10


@pytest.mark.parametrize('command', ['eval', 'infer'])
@pytest.mark.parametrize(
  ('flag', 'texts'),
  [
    ('--gin.PROMPT_LENGTH=5', ['is a prompt [3, 7]', 'set PROMPT_LENGTH=3']),
    ('--gin.PROMPT_LENGTH=long', ['is long; expected a whole number']),
    (
      '--gin.LEARNING_RATE=0.1',
      ['LEARNING_RATE is set on the command line, but no parameter reads'],
    ),
    (
      '--gin.train.Run.seed=3',
      ["'train.Run' (the command line) is in prompt_jax.train, which this"],
    ),
    (
      '--gin.LABELS=@prompts.Prompt',
      ["'prompts.Prompt' (the command line) is in prompt_jax.prompts, which"],
    ),
  ],
)
def test_what_a_prompt_file_decides(command, flag, texts, tmp_path, capsys):
  assert cli.main(using(command, tmp_path, flag, '--dry_run')) == 2
  said = capsys.readouterr().err
  for text in texts:
    assert text in said


@pytest.mark.parametrize('command', ['eval', 'infer'])
def test_a_length_without_a_prompt(command, tmp_path, capsys):
  flags = ['--gin.PROMPT_LENGTH=3', '--gin.PROMPT_FILE=None', '--dry_run']
  assert cli.main(using(command, tmp_path, *flags)) == 2
  assert 'but there is no PROMPT_FILE; expected' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['eval', 'infer'])
def test_a_method_that_is_no_prompt(command, tmp_path, capsys):
  (tmp_path / 'inserted.gin').write_text(
    'from __gin__ import dynamic_registration\n'
    'from prompt_jax import inserts\n'
    'from prompt_jax import prompted\n'
    'prompted.PromptEncoderDecoder.inserts = (\n  # a comment\n)\n'
  )
  method = str(tmp_path / 'inserted.gin')
  assert cli.main(using(command, tmp_path, '--dry_run', method=method)) == 2
  assert f'has inserts, and `prompt-jax {command}`' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['eval', 'infer'])
def test_what_is_left_alone_is_not_in_the_configuration(
  command, tmp_path, capsys
):
  method = tmp_path / 'mine.gin'
  method.write_text(
    'from __gin__ import dynamic_registration\n'
    'from prompt_jax import prompts as sources\n'
    'from prompt_jax import train\n'
    'train.Run:\n  seed = %NOBODY_READS_THIS\n'
    '  table = [\n    (".*", 1.0),\n  ]\n'
    'INIT = @sources.initializers.random_uniform()\n'
    'sources.Prompt.init = %INIT\n'
  )
  arguments = using(command, tmp_path, '--dry_run', method=str(method))
  assert cli.main(arguments) == 0
  said = capsys.readouterr().out
  assert 'Run.' not in said and 'Prompt.' not in said
  assert {'eval': 'Evaluation.', 'infer': 'Inference.'}[command] in said


def test_infer_in_short(tmp_path, capsys):
  add = ['--gin.INPUT_FILE=a.txt']
  assert cli.main(using('infer', tmp_path, *add, '--dry_run')) == 2
  said = capsys.readouterr().err
  assert 'INPUT_FILE is given twice, as --input and as --gin.INPUT_FILE' in said
  assert cli.main(using('infer', tmp_path, '--dry_run')) == 0
  assert f"'{tmp_path}/said.jsonl'" in capsys.readouterr().out


@pytest.mark.parametrize('run', ['infer', 'eval'])
def test_a_file_task_beside_a_run(run, tmp_path, capsys):
  """Fills the None that stands for no task, in either order of the files."""
  task = ['--gin_file', 'runs/own_file.gin']
  task += ["--gin.TASK_FILES={'test': 'a.tsv'}"]
  base = ['--gin_file=models/mini.gin', f'--gin_file=runs/{run}.gin']
  more = ['--input=a', '--output=b'] if run == 'infer' else []
  more += ['--gin.EVAL_OUTPUT_DIR=a'] if run == 'eval' else []
  for files in [*base, *task], [*task, *base]:
    status = cli.main([run, *files, *more, '--dry_run'])
    said = capsys.readouterr()
    if run == 'eval':  # reads its examples, which are not there
      assert status == 2 and 'The test file of task' in said.err
    else:
      assert status == 0 and 'task = %MIXTURE_OR_TASK_NAME' in said.out
      assert 'MIXTURE_OR_TASK_NAME = @local.FileTask()' in said.out


def test_none_in_a_file_of_ones_own_is_a_value(tmp_path, capsys):
  (tmp_path / 'mine.gin').write_text('MIXTURE_OR_TASK_NAME = None\n')
  files = ['runs/infer.gin', 'runs/own_file.gin', f'{tmp_path}/mine.gin']
  flags = [f'--gin_file={file}' for file in files]
  assert cli.main(['infer', *flags]) == 2
  assert 'MIXTURE_OR_TASK_NAME is bound twice' in capsys.readouterr().err


def test_train_takes_its_files_after_a_blank(tmp_path, capsys):
  tiny.write_files(tmp_path / 'files')
  flags = tiny.flags(tmp_path / 'files', tmp_path / 'run')
  apart = [
    part
    for flag in flags
    for part in (flag.split('=') if flag.startswith('--gin_file') else [flag])
  ]
  assert len(apart) == len(flags) + 4
  assert cli.main([*apart, '--dry_run']) == 0
  assert 'Run.model_dir' in capsys.readouterr().out


def test_dry_run_shows_the_configuration_and_computes_nothing(tmp_path, capsys):
  tiny.write_files(tmp_path / 'files')
  flags = tiny.flags(tmp_path / 'files', tmp_path / 'run')
  assert cli.main([*flags, '--dry_run']) == 0
  said = capsys.readouterr().out
  assert 'Run.model_dir' in said and 'Adafactor' not in said
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('command', sorted({*cli.COMMANDS}))
@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
def test_a_module_is_its_command(command, monkeypatch):
  """With all that `prompt-jax` does before it, such as keeping the heap."""
  given = []
  monkeypatch.setattr(cli, 'main', lambda argv: given.append(argv) or 7)
  monkeypatch.setattr(sys, 'argv', ['a file', '--gin_file=a'])
  with pytest.raises(SystemExit) as caught:
    runpy.run_module(f'prompt_jax.{command}', run_name='__main__')
  assert caught.value.code == 7 and given == [[command, '--gin_file=a']]
