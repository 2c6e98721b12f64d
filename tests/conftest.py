"""Rules of every test: eight CPU devices, no silent rank promotion."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_flags = os.environ.get('XLA_FLAGS', '')
if 'host_platform_device_count' not in _flags:
  os.environ['XLA_FLAGS'] = _flags + ' --xla_force_host_platform_device_count=8'

import jax  # noqa: E402  the device count has to be set first

jax.config.update('jax_numpy_rank_promotion', 'raise')
