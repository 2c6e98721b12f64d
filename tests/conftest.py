"""Rules of every test: eight CPU devices, no silent rank promotion.

No test writes to the home of who runs it.
"""

import atexit
import os
import shutil
import tempfile

# a run keeps compiled programs in the user's home unless it is told where
if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
  _compiled = tempfile.mkdtemp(prefix='compiled')
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_flags = os.environ.get('XLA_FLAGS', '')
if 'host_platform_device_count' not in _flags:
  os.environ['XLA_FLAGS'] = _flags + ' --xla_force_host_platform_device_count=8'

import jax  # noqa: E402  the device count has to be set first

from prompt_jax import heap  # noqa: E402

heap.keep()  # before JAX makes its threads

jax.config.update('jax_numpy_rank_promotion', 'raise')
