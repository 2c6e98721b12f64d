"""The script that makes the backbones: its grammar, its models, its words."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from prompt_jax import bindings, ginfiles

_ROOT = pathlib.Path(__file__).parents[2]
_SCRIPT = 'launch/pretrain/backbones.sh'


def _bash(*argv, **environment):
  return subprocess.run(
    ['bash', *argv],
    cwd=_ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
  )


def _widths() -> dict[str, int]:
  """Model -> width, as the script says."""
  text = (_ROOT / _SCRIPT).read_text()
  (line,) = re.findall(r'declare -A width=\((.+)\)', text)
  return {name: int(n) for name, n in re.findall(r'\[(\w+)\]=(\d+)', line)}


def test_bash_can_read_it():
  assert _bash('-n', _SCRIPT).returncode == 0


def test_models_exist_in_the_widths_it_says():
  assert list(_widths()) == ['mini', 'midi']
  for model, width in _widths().items():
    found, _ = bindings.read(
      ginfiles.find(f'models/{model}.gin'), bindings.Imports(), ginfiles.find
    )
    values = {each.name: each.value for each in found if each.is_macro}
    assert values['EMBED_DIM'] == width and values['NUM_EMBEDDINGS'] == 8192


def test_modules_it_runs_exist():
  text = (_ROOT / _SCRIPT).read_text()
  for name in re.findall(r'-m (launch\.[\w.]+)', text):
    assert (_ROOT / (name.replace('.', '/') + '.py')).is_file(), name


def test_what_a_user_can_get_wrong(tmp_path):
  none = _bash(_SCRIPT)
  assert none.returncode and 'the folder with tasks/, text/ and' in none.stderr
  other = _bash(_SCRIPT, str(tmp_path), str(tmp_path / 'out'), 'huge')
  assert other.returncode == 2
  assert "unknown model 'huge'; expected one of:" in other.stderr
  assert not (tmp_path / 'out').exists()


@pytest.fixture
def recorder(tmp_path):
  """A python that writes down its arguments and makes no file."""
  script = tmp_path / 'python'
  script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
  script.chmod(0o755)
  return script


def _calls(recorder) -> list[str]:
  lines = (recorder.parent / 'calls').read_text().splitlines()
  (recorder.parent / 'calls').unlink()
  return lines


def test_it_goes_on_where_it_was(recorder, tmp_path):
  out = tmp_path / 'out'
  run = lambda: _bash(
    *(_SCRIPT, 'DATA', str(out), 'mini'), PYTHON=str(recorder)
  )
  modules = lambda: [
    line.split()[1].split('.')[-1] for line in _calls(recorder)
  ]
  first = ['tasks', 'spans', 'teacher', 'mixture']
  begin, end = ['embeddings', 'start'], ['train', 'train', 'ship']
  assert run().returncode == 0
  assert modules() == [*first, *begin, *end]
  (out / 'teacher').mkdir()
  (out / 'teacher' / 'words.npz').touch()
  run()
  assert modules() == ['tasks', 'spans', 'mixture', *begin, *end]
  (out / 'mixture.npz').touch()
  (out / 'start_mini').mkdir()
  run()
  one, two, _ = _calls(recorder)
  for flag in (f'START={out}/start_mini', f'MIXTURE={out}/mixture.npz'):
    assert f'--gin.{flag}' in one and f'--gin.{flag}' in two
  assert '--gin.TRAIN_STEPS=17600 --gin.SCHEDULE=constant' in one
  # the warm-up is long over: from its end the rate falls
  assert '--gin.TRAIN_STEPS=23600 --gin.SCHEDULE=linear' in two
  assert two.endswith('--gin.WARMUP_STEPS=17600')


def test_a_larger_model_grows_from_a_smaller(recorder, tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'mixture.npz').touch()
  _bash(_SCRIPT, 'DATA', str(out), 'midi', PYTHON=str(recorder))
  _, grown, one, two, _ = _calls(recorder)
  assert grown.startswith('-m launch.pretrain.grow --gin_file=models/midi.gin')
  assert f'--model_dir {out}/mini --out {out}/start_midi' in grown
  source = f'--gin.SOURCE_START={out}/start_midi/source.npz'
  for line in one, two:
    assert source in line and '--gin.rows.Rows.batch_scale=0.5' in line


@pytest.mark.parametrize(
  'module',
  [
    *('tasks', 'spans', 'teacher', 'mixture'),
    *('embeddings', 'start', 'grow', 'ship'),
  ],
)
@pytest.mark.slow  # eight processes that import JAX or TensorFlow
def test_help(module):
  if module == 'embeddings':
    pytest.importorskip('tokenizers', reason='the extra `pretrain`')
  found = subprocess.run(
    [sys.executable, '-m', f'launch.pretrain.{module}', '--help'],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert found.returncode == 0, found.stderr
  assert '--out' in found.stdout
