"""Gin files are found, refused with one paragraph, or parsed."""

import pathlib
import subprocess
import sys

import gin
import pytest

from prompt_jax import ginfiles
from prompt_jax.errors import UserError

_ROOT = pathlib.Path(__file__).parents[1]
_HEAD = """from __gin__ import dynamic_registration
from tests import ginfiles_test
"""
_RUN = (
  _HEAD
  + """
BATCH_SIZE = 7
IDLE = 11
ginfiles_test.run:
  folder = %MODEL_DIR
  steps = %TRAIN_STEPS
  batch = %BATCH_SIZE
ginfiles_test.run.source = @ginfiles_test.source()
"""
)
_GIVEN = ['MODEL_DIR=/tmp/sst2', 'TRAIN_STEPS=13']


def run(folder, steps, batch=3, source=None):
  """What the gin files of these tests configure."""
  return folder, steps, batch, source


def source(length=17):
  """A second function, given to the first."""
  return length


def _configured():
  return gin.get_configurable(run)()


@pytest.fixture
def write(tmp_path):
  def file(text, name='run.gin'):
    path = tmp_path / name
    path.write_text(text)
    return str(path)

  return file


def _refusal(files, bindings=_GIVEN, search_paths=()):
  with pytest.raises(UserError) as error:
    ginfiles.parse(files, bindings, search_paths)
  assert len(str(error.value).splitlines()) < 12
  return str(error.value)


def test_files_and_flags_configure_a_function(write):
  ginfiles.parse([write(_RUN)], _GIVEN)
  assert _configured() == ('/tmp/sst2', 13, 7, 17)


def test_a_second_parse_forgets_the_first(write):
  path = write(_RUN)
  ginfiles.parse([path], [*_GIVEN, 'BATCH_SIZE=5'])
  ginfiles.parse([path], _GIVEN)
  assert _configured()[2] == 7


@pytest.mark.parametrize(
  'value, meant',
  [
    ("'text'", 'text'),
    ("'it is = quoted'", 'it is = quoted'),
    ('"two words"', 'two words'),
    ('gs://bucket/run-1', 'gs://bucket/run-1'),
    ('some/path', 'some/path'),
    ('2026/run', '2026/run'),
    ('/tmp/a b', '/tmp/a b'),
    ('sst2', 'sst2'),
    ('None', None),
    ("{'inputs': 5}", {'inputs': 5}),
    ('%BATCH_SIZE', 7),
  ],
)
def test_values_on_the_command_line(write, value, meant):
  ginfiles.parse([write(_RUN)], [f'MODEL_DIR={value}', 'TRAIN_STEPS=13'])
  assert _configured()[0] == meant


@pytest.mark.parametrize(
  'name',
  ['ginfiles_test.source.length', 'source.length'],
)
def test_flags_reach_any_parameter(write, name):
  ginfiles.parse([write(_RUN)], [*_GIVEN, f'{name}=19'])
  assert _configured()[3] == 19


def test_flags_reach_a_function_that_no_file_mentions(write):
  path = write(_HEAD + 'ginfiles_test.run.folder = "x"')
  ginfiles.parse([path], ['ginfiles_test.source.length=23'])
  assert gin.get_configurable(source)() == 23


def test_a_file_overrides_what_it_includes(write, tmp_path):
  write(_RUN, 'inner.gin')
  outer = write(_HEAD + "include 'inner.gin'\nBATCH_SIZE = 29\n", 'o.gin')
  ginfiles.parse([outer], _GIVEN, [str(tmp_path)])
  assert _configured()[2] == 29


def test_the_older_name_of_train_steps(write):
  path = write(_RUN)
  ginfiles.parse([path], ['MODEL_DIR=x', 'TRAIN_STEPS_RELATIVE=31'])
  assert _configured()[1] == 31
  steps = write('TRAIN_STEPS_RELATIVE = 37\n', 'steps.gin')
  ginfiles.parse([path, steps], ['MODEL_DIR=x'])
  assert _configured()[1] == 37


def test_required_gives_way_in_either_order(write):
  asks = write(_RUN + 'MODEL_DIR = %gin.REQUIRED\n')
  gives = write("MODEL_DIR = 'mine'\nTRAIN_STEPS = 13\n", 'mine.gin')
  for files in ([asks, gives], [gives, asks]):
    ginfiles.parse(files)
    assert _configured()[0] == 'mine'


def test_operative_says_what_was_used(write):
  ginfiles.parse([write(_RUN)], _GIVEN)
  _configured()
  text = ginfiles.operative()
  assert 'ginfiles_test.source.length = 17' in text
  assert "MODEL_DIR = '/tmp/sst2'" in text


def test_unread_macros_are_listed(write):
  assert ginfiles.unread([write(_RUN)], _GIVEN) == ['IDLE']


def test_flags_become_bindings():
  argv = ['train', '--gin_file=a.gin', "--gin.NAME='a=b'", '--gin.a.b.c=3']
  assert ginfiles.flags_to_bindings(argv) == [
    'train',
    '--gin_file=a.gin',
    "--gin_bindings=NAME='a=b'",
    '--gin_bindings=a.b.c=3',
  ]
  with pytest.raises(UserError, match='expected --gin.NAME=VALUE, with no sp'):
    ginfiles.flags_to_bindings(['train', '--gin.NAME', '3'])


def test_find_looks_in_all_places(write, tmp_path, monkeypatch):
  path = write('', 'own.gin')
  assert ginfiles.find(path) == path
  assert ginfiles.find('own.gin', [str(tmp_path)]) == path
  monkeypatch.chdir(tmp_path)
  assert ginfiles.find('own.gin') == 'own.gin'
  name = 'models/t5_1_1_base.gin'
  assert pathlib.Path(ginfiles.find(name)) == _ROOT / 'gin' / name
  assert name in ginfiles.available('models')


def test_a_wheel_holds_its_own_gin_folder(tmp_path, monkeypatch):
  models = tmp_path / 'prompt_jax' / 'gin' / 'models'
  models.mkdir(parents=True)
  (models / 'tiny.gin').touch()
  module = str(tmp_path / 'prompt_jax' / 'ginfiles.py')
  monkeypatch.setattr(ginfiles, '__file__', module)
  assert ginfiles.available('models') == ['models/tiny.gin']
  assert ginfiles.find('models/tiny.gin') == str(models / 'tiny.gin')


def test_gin_files_do_not_hide_gin():
  code = 'import prompt_jax.ginfiles, gin; print(gin.parse_config)'
  subprocess.run([sys.executable, '-c', code], cwd=_ROOT, check=True)
  assert not (_ROOT / 'gin' / '__init__.py').exists()


def test_missing_file():
  text = _refusal(['models/t5_1_1_bsae.gin'])
  assert "No gin file 'models/t5_1_1_bsae.gin'" in text
  assert 'Nearest: models/t5_1_1_base.gin' in text


def test_unknown_macro(write):
  text = _refusal([write(_RUN)], [*_GIVEN, 'BATCH_SZIE=5'])
  assert '--gin.BATCH_SZIE on the command line: no gin file given' in text
  assert 'Nearest: BATCH_SIZE' in text


def test_idle_macro(write):
  text = _refusal([write(_RUN)], [*_GIVEN, 'IDLE=5'])
  assert '--gin.IDLE is set on the command line, but no parameter' in text


def test_missing_values_come_together(write):
  path = write(_RUN + 'TRAIN_STEPS = %gin.REQUIRED\n')
  text = _refusal([path], [])
  assert '2 value(s) missing; add to the command line' in text
  assert f'--gin.MODEL_DIR=...  (read at {path}:7)' in text
  assert f'--gin.TRAIN_STEPS=...  (read at {path}:8)' in text


def test_many_missing_values_are_cut_short(write):
  values = ', '.join(f'%VALUE_{n}' for n in range(13))
  path = write(_HEAD + f'ginfiles_test.run.folder = [{values}]\n')
  assert _refusal([path], []).endswith('and 5 more')


def test_missing_parameter(write):
  path = write(_HEAD + 'ginfiles_test.run.folder = %gin.REQUIRED\n')
  text = _refusal([path], [])
  assert f'--gin.ginfiles_test.run.folder=...  (required at {path}:3)' in text


def test_misspelt_definition(write):
  path = write(_RUN + 'TRAIN_STEP = 5\n')
  text = _refusal([path], ['MODEL_DIR=x'])
  assert f'misspelt TRAIN_STEP at {path}:11?' in text


@pytest.mark.parametrize(
  'line, culprit',
  [
    ('ginfiles_test.rnu.batch = 3', "ginfiles_test has no 'rnu'. Nearest: run"),
    ('ginfiles_test.run.btach = 3', "no parameter 'btach'. Nearest: batch"),
    ('ginfiles_test.run.batch = @ginfiles_test.rnu', "has no 'rnu'"),
    ('trian.run.batch = 3', "no import gives 'trian'; imported here: gin"),
    ('ginfiles_test.pathlib.x = 3', 'is a module; expected a function'),
    ('ginfiles_test.run.batch = text', 'strings take quotes'),
    ('ginfiles_test.run.batch = [3', 'is not gin'),
    ('import prompt_jax.t5.confg', 'Nearest: config'),
  ],
)
def test_mistakes_in_a_file_name_file_and_line(write, line, culprit):
  path = write(_HEAD + '\n' + line + '\n')
  text = _refusal([path])
  assert culprit in text
  assert f'{path}:4' in text or f'{path}:5' in text  # the end, if unclosed


@pytest.mark.parametrize(
  'binding, culprit',
  [
    ('source.lenght=3', "no parameter 'lenght'. Nearest: length"),
    ('ginfiles_test.rnu.batch=3', "has no 'rnu'. Nearest: run"),
    ('surce.length=3', "'surce' ends the name of 0 functions"),
    ('MODEL_DIR', "'--gin.MODEL_DIR' on the command line is not a binding"),
    ('MODEL_DIR=', 'for an empty string: --gin.NAME="\'\'"'),
    ("MODEL_DIR='x", 'is not gin'),
    ('MODEL_DIR=false', 'expected True, False or None'),
    ('MODEL_DIR=3\nTRAIN_STEPS=5', 'is more than one binding'),
  ],
)
def test_mistakes_on_the_command_line(write, binding, culprit):
  assert culprit in _refusal([write(_RUN)], [*_GIVEN, binding])


def test_two_files_that_bind_one_name(write):
  first = write(_RUN)
  macro = write('BATCH_SIZE = 5\n', 'macro.gin')
  text = _refusal([first, macro])
  assert f'BATCH_SIZE is bound twice: {first}:4 and {macro}:1' in text
  other = write(_HEAD + 'ginfiles_test.run.steps = 3\n', 'other.gin')
  text = _refusal([other, first])
  assert f'bound twice: {other}:3 and {first}:8' in text


def test_two_files_may_share_an_include(write, tmp_path):
  write(_RUN, 'inner.gin')
  files = [
    write("include 'inner.gin'\nMODEL_DIR = 'x'\n", 'a.gin'),
    write("include 'inner.gin'\nTRAIN_STEPS = 13\n", 'b.gin'),
  ]
  ginfiles.parse(files, [], [str(tmp_path)])
  assert _configured() == ('x', 13, 7, 17)


def test_a_circle_of_includes(write, tmp_path):
  write("include 'b.gin'\n", 'a.gin')
  write("include 'a.gin'\n", 'b.gin')
  text = _refusal(['a.gin'], [], [str(tmp_path)])
  assert 'which includes it in turn' in text


def test_imports_come_after_dynamic_registration(write):
  path = write('from tests import ginfiles_test\n')
  assert f'{path}:1: `from tests import ginfiles_test` comes before' in (
    _refusal([path], [])
  )
