"""Compiled programs that outlive a process.

They lie in ~/.cache/prompt_jax/compiled. JAX_COMPILATION_CACHE_DIR names
another place, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
"""

import hashlib
import os
import pathlib
import platform

import jax


def folder() -> pathlib.Path:
  """The folder of this machine's programs, where the user gives none.

  A program is compiled for what a processor can do, and a home may be shared
  by several kinds.
  """
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  about = f'{platform.machine()} {platform.processor()}'
  cpu = pathlib.Path('/proc/cpuinfo')
  if cpu.is_file():
    lines = cpu.read_text().splitlines()
    kinds = [x for x in lines if x.startswith(('flags', 'Features', 'model'))]
    about += '\n'.join(sorted(set(kinds)))
  machine = hashlib.sha256(about.encode()).hexdigest()[:8]
  return pathlib.Path(home).expanduser() / 'prompt_jax/compiled' / machine


def keep() -> None:
  """Keeps compiled programs across processes, unless the user chose where."""
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    where = folder()
    try:
      where.mkdir(parents=True, exist_ok=True)
    except OSError:
      return  # a home that cannot be written to costs time, not the run
    jax.config.update('jax_compilation_cache_dir', str(where))
  if not os.environ.get('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'):
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
