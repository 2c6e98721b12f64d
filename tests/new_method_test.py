"""A method is a module, a gin file and a test: three new files, no other.

They are written into an empty folder, as somebody else's package would have
them, and the contract that every method owes is asked of them.
"""

import importlib
import sys

import numpy as np
import pytest

from tests import checks, goldens_test, miniature
from tests.contract_test import every_check

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
_GIN = """# A toy: differs from prompt.gin by its source alone.
from __gin__ import dynamic_registration

import toy_signed
from prompt_jax import prompted
from prompt_jax import train

PROMPT_LENGTH = 100
LEARNING_RATE = 0.3

prompted.PromptEncoderDecoder.encoder_prompt = @toy_signed.Signed
toy_signed.Signed.length = %PROMPT_LENGTH
train.Run.table = [('encoder/prompt/.*', %LEARNING_RATE)]
"""
_TEST = """import jax.numpy as jnp
import numpy as np

from toy_signed import Signed


def test_formula():
  p = np.linspace(-1, 1, 35, dtype=np.float32).reshape(5, 7)
  embeds = jnp.ones((2, 3, 7))
  got = Signed(5).apply({'params': {'prompt': p}}, None, embeds, None)
  for row in got:
    np.testing.assert_allclose(row, np.exp(p) - np.exp(-p), rtol=1e-5)
"""
FILES = {
  'toy_signed.py': _MODULE,
  'toy_signed.gin': _GIN,
  'toy_signed_test.py': _TEST,
}


@pytest.fixture(scope='module')
def package(tmp_path_factory):
  """The folder of the three files, which Python can import from."""
  folder = tmp_path_factory.mktemp('package')
  for name, text in FILES.items():
    (folder / name).write_text(text)
  sys.path.insert(0, str(folder))
  yield folder
  sys.path.remove(str(folder))
  for name in ('toy_signed', 'toy_signed_test'):
    sys.modules.pop(name, None)


@pytest.fixture(scope='module')
def setup(package, tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  files, macros = [package / 'toy_signed.gin'], miniature.write(folder)
  return checks.Setup(*miniature.command(folder, files, macros, folder / 'run'))


def test_its_own_test(package):
  importlib.import_module('toy_signed_test').test_formula()


@pytest.mark.slow  # compiles a step; the contract of one more method
@every_check
def test_contract(check, setup):
  setup.parse()
  check(setup)


def test_its_golden(package, tmp_path):
  method = str(package / 'toy_signed.gin')
  found = goldens_test._leaves(tmp_path, method, miniature.write(tmp_path))
  shape = [miniature.PROMPT, miniature.WIDTH]
  own = [shape, 'float32', ['prompt', 'prompt_embed'], True]
  assert found['encoder/prompt/prompt'] == own
  assert sum(np.prod(leaf[0]) for leaf in found.values() if leaf[3]) == (
    miniature.PROMPT * miniature.WIDTH
  )


def test_nothing_else_was_written(package):
  here = {path.name for path in package.iterdir() if path.is_file()}
  assert here == FILES.keys()
