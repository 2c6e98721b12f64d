"""The interpreter that has torch and PEFT, for tests marked `interop`.

It is PROMPT_JAX_INTEROP_PYTHON, by default the one that runs the tests; what
the two sides exchange are files. `make test-interop` installs it.
"""

import os
import pathlib
import subprocess
import sys

import pytest

_NEEDED = ('torch', 'transformers', 'peft')
_HAS = """
import importlib.util, sys
print(*(n for n in sys.argv[1:] if not importlib.util.find_spec(n)), sep=', ')
"""


@pytest.fixture(scope='session')
def torch_side():
  """`(command, folder)`, which torch_runner.py does; skips without it."""
  python = os.environ.get('PROMPT_JAX_INTEROP_PYTHON', sys.executable)
  asked = [python, '-c', _HAS, *_NEEDED]
  lacks = subprocess.run(asked, capture_output=True, text=True, check=True)
  if lacks.stdout.strip():
    pytest.skip(
      f'{python} has no {lacks.stdout.strip()}; `make test-interop` installs '
      'them, and PROMPT_JAX_INTEROP_PYTHON names another interpreter'
    )
  runner = pathlib.Path(__file__).with_name('torch_runner.py')
  offline = {**os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}

  def run(command: str, folder: pathlib.Path) -> None:
    arguments = [python, str(runner), command, str(folder)]
    subprocess.run(arguments, check=True, env=offline)

  return run
