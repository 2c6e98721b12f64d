"""The small task stands for the shipped one."""

import pytest

from prompt_jax.tasks import local
from tests.launch import small


@pytest.fixture
def films(monkeypatch):
  """The small task, which `local.shipped` gives under its name."""
  # set, so that no run changes where JAX keeps compiled programs
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  real = local.shipped
  monkeypatch.setattr(
    local,
    'shipped',
    lambda name: small.task() if name == small.TASK else real(name),
  )
  return small.task()
