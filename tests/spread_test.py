"""Devices that the members of a sweep are spread over."""

import os
import subprocess
import sys
import types

import jax
import pytest

from prompt_jax import spread, stacked
from prompt_jax.errors import UserError
from prompt_jax.training import sharding


@pytest.mark.parametrize(
  ('count', 'devices', 'parts'),
  [(8, 1, 1), (8, 2, 2), (3, 2, 2), (7, 5, 4), (1, 5, 1), (5, 8, 5)],
)
def test_as_few_as_have_no_more_turns(count, devices, parts):
  one = sharding.make_mesh(devices=jax.devices()[:1])
  mesh = stacked.side_by_side(one, count, devices)
  assert dict(mesh.shape) == {'members': parts, 'data': 1, 'model': 1}
  assert list(mesh.devices.flat) == jax.devices()[:parts]


def test_one_part_is_where_a_run_alone_lies():
  rows = sharding.make_mesh(2, jax.devices()[2:6])
  mesh = stacked.side_by_side(rows, 3)
  assert mesh.devices.tolist() == [rows.devices.tolist()]


def _run(dtype, size=1):
  config = types.SimpleNamespace(activation_dtype=dtype)
  return types.SimpleNamespace(
    model=types.SimpleNamespace(config=config),
    mesh=sharding.make_mesh(size, data_parallel=1),
  )


def test_by_the_dtype_of_products():
  every = jax.device_count()
  assert spread.devices(None, _run('float32')) == every
  assert spread.devices(None, _run('float32', size=2)) == every // 2
  assert spread.devices(None, _run('bfloat16')) == 1
  assert spread.devices(3, _run('bfloat16')) == 3


def test_too_many_are_told():
  with pytest.raises(UserError, match='SWEEP_DEVICES is 5; expected at most 4'):
    spread.devices(5, _run('float32', size=2))


def test_other_devices_share_the_rows(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert not spread.possible()
  assert spread.devices(None, _run('float32')) == 1
  assert spread.devices(1, _run('float32')) == 1
  with pytest.raises(UserError, match=r'devices \(tpu\); expected None'):
    spread.devices(2, _run('float32'))


def _counted(code, **variables):
  """What a process prints that has no devices yet."""
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | variables
  command = [sys.executable, '-c', f'import jax\n{code}']
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


@pytest.mark.slow  # processes
def test_asked_for_before_jax_starts():
  ask = 'from prompt_jax import spread; spread.ask({})'
  count = 'print(jax.device_count())'
  cores = min(2, os.cpu_count())
  assert _counted(f'{ask.format(2)}\n{count}') == cores
  assert _counted(f'{ask.format(1)}\n{count}') == 1
  started = f'jax.devices()\n{ask.format(2)}\n{count}'
  assert _counted(started) == 1
  forced = '--xla_force_host_platform_device_count=3'
  assert _counted(f'{ask.format(2)}\n{count}', XLA_FLAGS=forced) == 3
  said = _counted(f'{ask.format(2)}\n{count}', JAX_NUM_CPU_DEVICES='5')
  assert said == 5


def test_copies_of_the_base():
  mesh = sharding.make_mesh(2, data_parallel=3)
  assert dict(mesh.shape) == {'data': 3, 'model': 2}
  told = 'data_parallel is 5; expected 1 to 4, or None: there are 8 devices'
  with pytest.raises(UserError, match=told):
    sharding.make_mesh(2, jax.devices()[:8], data_parallel=5)
