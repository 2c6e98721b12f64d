"""Rules of every test: eight CPU devices, no silent rank promotion.

Tests compile more than they compute, so LLVM is told to take it easy, which
halves their time; XLA_FLAGS=--xla_backend_optimization_level=3 is what users
have. At level 0, a seventh faster still, two parity tests miss their tolerance
by a last bit.

No test writes to the home of who runs it. At the end stands which planted bug
was caught by what, see `planted`.
"""

import atexit
import os
import shutil
import sys
import tempfile

# a run keeps compiled programs in the user's home unless it is told where
if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
  _compiled = tempfile.mkdtemp(prefix='compiled')
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
for _name, _usual in (
  ('xla_force_host_platform_device_count', 8),
  ('xla_backend_optimization_level', 1),
):
  _flags = os.environ.get('XLA_FLAGS', '')
  if _name not in _flags:
    os.environ['XLA_FLAGS'] = f'{_flags} --{_name}={_usual}'.strip()

import jax  # noqa: E402  the device count has to be set first
import pytest  # noqa: E402

from prompt_jax import heap  # noqa: E402

heap.keep()  # before JAX makes its threads

jax.config.update('jax_numpy_rank_promotion', 'raise')

_CAUGHT = 'caught'  # what a worker of pytest-xdist tells of its planted bugs
_told: list[tuple[str, str]] = []


def _caught():
  planted = sys.modules.get('tests.planted')
  return list(planted.caught) if planted else []


def pytest_sessionfinish(session):
  if hasattr(session.config, 'workeroutput'):
    session.config.workeroutput[_CAUGHT] = _caught()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  _told.extend(map(tuple, getattr(node, 'workeroutput', {}).get(_CAUGHT, ())))


def pytest_terminal_summary(terminalreporter):
  found = [*_told, *_caught()]
  if found:
    from tests import planted

    terminalreporter.section('planted bugs, and what caught each')
    terminalreporter.write_line(planted.table(found))
