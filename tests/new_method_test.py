"""A method is a module, a gin file and a test: three new files, no other.

They are written into a copy of the project, which finds them by listing its
folders, and the contract that every method owes is asked of them there.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import miniature

_ROOT = pathlib.Path(__file__).parents[1]
_MODULE = '''"""`Signed`: a prompt that knows its sizes and its signs apart."""

import flax.linen as nn
import jax.numpy as jnp


class Signed(nn.Module):
  length: int = 100
  instance_wise, num_tasks = False, 1

  @nn.compact
  def __call__(self, task_ids, embeds, mask):
    axes, shape = ('prompt', 'prompt_embed'), (self.length, embeds.shape[-1])
    init = nn.with_logical_partitioning(nn.initializers.uniform(0.5), axes)
    prompt = 2 * jnp.sinh(self.param('prompt', init, shape))
    return jnp.broadcast_to(prompt[None], (embeds.shape[0], *shape))
'''
_GIN = """# A toy (Nobody 2000). Differs from prompt.gin: its source.
# Run: prompt-jax train --gin_file=models/mini.gin --gin_file=methods/signed.gin --gin_file=runs/train.gin
# Expect: no figure.
from __gin__ import dynamic_registration

from prompt_jax import prompted
from prompt_jax import train
from prompt_jax.prompts import signed

PROMPT_LENGTH = 100
LEARNING_RATE = 0.3

prompted.PromptEncoderDecoder.encoder_prompt = @signed.Signed
signed.Signed.length = %PROMPT_LENGTH
train.Run.table = [('encoder/prompt/.*', %LEARNING_RATE)]
"""  # noqa: E501
_TEST = """import jax.numpy as jnp
import numpy as np

from prompt_jax.prompts.signed import Signed


def test_formula_of_signed():
  p = np.linspace(-1, 1, 35, dtype=np.float32).reshape(5, 7)
  embeds = jnp.ones((2, 3, 7))
  got = Signed(5).apply({'params': {'prompt': p}}, None, embeds, None)
  for row in got:
    np.testing.assert_allclose(row, np.exp(p) - np.exp(-p), rtol=1e-5)
"""
FILES = {
  'prompt_jax/prompts/signed.py': _MODULE,
  'gin/methods/signed.gin': _GIN,
  'tests/prompts/signed_test.py': _TEST,
}


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
  """The project, with the three files more."""
  folder = tmp_path_factory.mktemp('copy')
  for name in ('gin', 'prompt_jax', 'tasks', 'tests'):
    left = shutil.ignore_patterns('__pycache__', 'assets')
    shutil.copytree(_ROOT / name, folder / name, ignore=left)
  (folder / 'prompt_jax/assets').symlink_to(_ROOT / 'prompt_jax/assets')
  shutil.copy(_ROOT / 'pyproject.toml', folder)
  for name, text in FILES.items():
    assert not (folder / name).exists()
    (folder / name).write_text(text)
  return folder


def _pytest(folder, *args) -> str:
  """What pytest prints in a process of its own, which has to succeed."""
  command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', *args]
  done = subprocess.run(
    command,
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(folder)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.mark.slow  # compiles a step; the contract of one more method
def test_three_files_are_a_method(copy):
  chosen = ('-k', 'signed and not bit_for_bit', '-v')
  files = ('contract_test.py', 'gin_test.py', 'prompts/signed_test.py')
  said = _pytest(copy, *chosen, *(f'tests/{name}' for name in files))
  passed = re.findall(r'^tests/(\S+?)::(\S+) PASSED', said, re.M)
  by_file = [[test for file, test in passed if file == f] for f in files]
  contract, gin, own = by_file
  checks = [test for test in contract if test.startswith('test_contract[')]
  assert len(checks) >= 12 and all('signed' in test for test in checks)
  assert len(gin) >= 3 and own == ['test_formula_of_signed']


def test_its_parameters(copy, tmp_path):
  code = (
    'import json, pathlib, sys; from tests import goldens_test, miniature; '
    'folder = pathlib.Path(sys.argv[1]); macros = miniature.write(folder); '
    'name = "methods/signed.gin"; '
    'print(json.dumps(goldens_test._leaves(folder, name, macros)))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)],
    cwd=copy,
    env={**os.environ, 'PYTHONPATH': str(copy)},
    capture_output=True,
    text=True,
    check=True,
  )
  found = json.loads(done.stdout.splitlines()[-1])
  shape = [miniature.PROMPT, miniature.WIDTH]
  own = [shape, 'float32', ['prompt', 'prompt_embed'], True]
  assert found['encoder/prompt/prompt'] == own
  assert [path for path, leaf in found.items() if leaf[3]] == [
    'encoder/prompt/prompt'
  ]
