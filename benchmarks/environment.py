"""An environment of the peers' own: whole, or taken down and made again.

    <folder>/installed   what is installed, written last

Packages come from where pip is told to look (PIP_EXTRA_INDEX_URL,
PIP_CONSTRAINT and the like).
"""

import pathlib
import shutil
import subprocess
import sys

from prompt_jax import files
from prompt_jax.errors import UserError

# as the extra `interop` of setup.py
PEERS = ('peft>=0.21', 'torch>=2.13', 'transformers>=5.23')
_STAMP = 'installed'


def python(
  folder: pathlib.Path, packages=PEERS, run=subprocess.run
) -> pathlib.Path:
  """The interpreter of an environment that has the packages.

  Args:
    folder: of the environment; made where it is not whole.
    packages: requirements, as pip reads them.
    run: carries out one command, as `subprocess.run`.
  Returns: path of its python.
  Raises: UserError if the folder is something else, or pip fails.
  """
  folder = pathlib.Path(folder).absolute()
  stamp, wanted = folder / _STAMP, '\n'.join(packages) + '\n'
  interpreter = folder / 'bin' / 'python'
  if stamp.is_file() and stamp.read_text() == wanted:
    return interpreter
  if folder.exists() and any(folder.iterdir()):
    if not (folder / 'pyvenv.cfg').is_file():
      raise UserError(
        f'--environment {folder} holds something that is no environment of '
        'Python; expected a folder to make one in. Give another.'
      )
    shutil.rmtree(folder)  # of other packages, or cut short while it was made
  print(f'Installing {", ".join(packages)} into {folder}', file=sys.stderr)
  commands = (
    [sys.executable, '-m', 'venv', str(folder)],
    [str(interpreter), '-m', 'pip', 'install', '-q', *packages],
  )
  for command in commands:
    # stdout belongs to the figures
    done = run(command, stdout=sys.stderr)
    if done.returncode:
      raise UserError(
        f'{" ".join(command)} failed with status {done.returncode}; expected '
        f'the peers in {folder}. Where the index offers torch for GPUs alone, '
        'set PIP_EXTRA_INDEX_URL to one that has it for CPUs; or give '
        '--python, an interpreter that has the packages.'
      )
  files.write_text(stamp, wanted)
  return interpreter
