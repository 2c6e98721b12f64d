"""The wheel: what is in it, and that it works where no checkout is.

The dependencies come from the interpreter that runs this; the package comes
from the wheel alone.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow  # builds a wheel and starts processes

_ROOT = pathlib.Path(__file__).parents[1]
# What a build reads; a copy, so that no build/ is left in the checkout and
# no old one is picked up.
_PARTS = ('prompt_jax', 'tasks', 'gin')
_FILES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md')
_IGNORED = shutil.ignore_patterns('__pycache__', '*.pyc')


def _pip(*arguments) -> None:
  command = [sys.executable, '-m', 'pip', *map(str, arguments)]
  run = subprocess.run(command, capture_output=True, text=True, check=False)
  assert run.returncode == 0, run.stderr


def _has_setuptools() -> bool:
  """Whether the build backend is here, as new as pyproject.toml wants it."""
  if importlib.util.find_spec('setuptools') is None:
    return False
  import setuptools

  return int(setuptools.__version__.split('.')[0]) >= 77


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('source')
  for name in _PARTS:
    shutil.copytree(_ROOT / name, folder / name, ignore=_IGNORED)
  for name in _FILES:
    if (_ROOT / name).is_file():
      shutil.copy(_ROOT / name, folder / name)
  return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('wheel')
  here = ['--no-build-isolation'] if _has_setuptools() else []
  _pip('wheel', source, '--no-deps', '-q', '-w', out, *here)
  (file,) = out.glob('*.whl')
  return file


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> pathlib.Path:
  target = tmp_path_factory.mktemp('installed')
  _pip('install', wheel, '--no-deps', '-q', '--target', target)
  return target


def _files(folder: pathlib.Path, pattern: str) -> set[str]:
  found = folder.rglob(pattern)
  return {file.relative_to(folder).as_posix() for file in found}


def test_the_wheel_holds_every_file_once(source, wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert len(names) == len(set(names))
  package = {n for n in names if '.dist-info/' not in n}
  assets = source / 'prompt_jax/assets'
  wanted = {
    *(f'prompt_jax/{n}' for n in _files(source / 'prompt_jax', '*.py')),
    *(f'prompt_jax/tasks/{n}' for n in _files(source / 'tasks', '*.py')),
    *(f'prompt_jax/gin/{n}' for n in _files(source / 'gin', '*.gin')),
    *(
      f'prompt_jax/assets/{n}'
      for n in _files(assets, '*')
      if (assets / n).is_file()
    ),
  }
  assert package == wanted
  assert 'prompt_jax/gin/models/mini.gin' in package
  assert 'prompt_jax/tasks/local.py' in package
  # a module gin would hide gin-config from whoever stands beside it
  assert 'prompt_jax/gin/__init__.py' not in package


def test_the_wheel_holds_tasks_and_their_licences(wheel):
  archive = zipfile.ZipFile(wheel)
  assets = 'prompt_jax/assets'
  table = json.loads(archive.read(f'{assets}/tasks/tasks.json'))
  assert len(table) >= 5
  for name, about in table.items():
    for split in ('train', 'validation', 'test'):
      rows = archive.read(f'{assets}/tasks/{name}/{split}.tsv').decode()
      assert rows.split('\n')[0].endswith('\tlabel')
    assert about['licence']
    assert archive.read(f'{assets}/licences/{about["notice"]}').strip()
  tsv = {n.split('/')[-2] for n in archive.namelist() if n.endswith('.tsv')}
  assert tsv == table.keys(), 'a task that nothing describes'


def _bounds(need: str) -> str:
  """What a requirement asks for, without its name, lower bound and marker."""
  return need.split(';')[0].replace('>=', '')


def test_the_wheel_says_what_it_is(wheel):
  archive = zipfile.ZipFile(wheel)
  (metadata,) = (n for n in archive.namelist() if n.endswith('/METADATA'))
  text = archive.read(metadata).decode()
  version = next(
    line.split("'")[1]
    for line in (_ROOT / 'prompt_jax/__init__.py').read_text().splitlines()
    if line.startswith('__version__')
  )
  assert f'\nVersion: {version}\n' in text
  assert '\nRequires-Python: >=3.11\n' in text
  assert any(n.endswith('licenses/LICENSE') for n in archive.namelist())
  needs = [
    line.split(': ')[1]
    for line in text.splitlines()
    if line.startswith('Requires-Dist')
  ]
  pinned = [need for need in needs if set('<=~') & set(_bounds(need))]
  assert not pinned, 'an upper bound breaks installing beside others'
  # an index refuses a distribution that requires an address
  assert not [need for need in needs if '://' in need or ' @ ' in need]


def _run(installed, folder, *command) -> str:
  """What a command prints that sees the wheel and no checkout."""
  run = subprocess.run(
    [sys.executable, '-P', *map(str, command)],
    env={
      **os.environ,
      'PYTHONPATH': str(installed),
      'JAX_PLATFORMS': 'cpu',
    },
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  return run.stdout.strip()


def test_the_code_comes_from_the_wheel(installed, tmp_path):
  code = (
    'import prompt_jax\n'
    'from prompt_jax.tasks import features, local\n'
    'print(prompt_jax.__file__, local.__file__, sep="\\n")\n'
    'print(features.vocabulary_file("shipped"))\n'
  )
  lines = _run(installed, tmp_path, '-c', code).splitlines()
  assert [pathlib.Path(line).is_file() for line in lines] == [True] * 3
  assert all(line.startswith(f'{installed}/prompt_jax/') for line in lines)
  assert lines[1] == f'{installed}/prompt_jax/tasks/local.py'


def test_gin_files_are_found_by_name(source, installed, tmp_path):
  code = (
    'from prompt_jax import ginfiles\n'
    'print(ginfiles.find("models/mini.gin"))\n'
    'print(*ginfiles.available("methods"))\n'
    # finds what it includes, too
    'ginfiles.parse(["models/mini.gin"], ["DROPOUT_RATE=0.0"])\n'
  )
  found, methods = _run(installed, tmp_path, '-c', code).splitlines()
  assert found == f'{installed}/prompt_jax/gin/models/mini.gin'
  here = sorted(f.name for f in (source / 'gin/methods').glob('*.gin'))
  assert methods.split() == [f'methods/{name}' for name in here]


def test_the_commands_start(installed, tmp_path):
  said = _run(installed, tmp_path, '-m', 'prompt_jax.train', '--help')
  assert '--gin_file' in said
  script = installed / 'bin/prompt-jax'
  assert 'train' in _run(installed, tmp_path, script, '--help')
