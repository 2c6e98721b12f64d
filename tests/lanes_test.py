"""Cohorts side by side, and the devices that they are on."""

import os
import subprocess
import sys
import threading
import types

import jax
import pytest

from prompt_jax import lanes
from prompt_jax.errors import UserError
from prompt_jax.training import loop, sharding


def _run(size=1):
  mesh = sharding.make_mesh(size, data_parallel=1)
  return types.SimpleNamespace(mesh=mesh)


def _devices(found):
  return [mesh.devices.tolist() for mesh in found]


def test_a_lane_a_device():
  every = jax.devices()
  assert _devices(lanes.meshes(None, _run())) == [[[one]] for one in every]
  assert _devices(lanes.meshes(1, _run())) == [[every[:1]]]
  pairs = lanes.meshes(3, _run(size=2))
  assert _devices(pairs) == [[every[:2]], [every[2:4]], [every[4:6]]]


def test_too_many_are_told():
  with pytest.raises(UserError, match='SWEEP_DEVICES is 5; expected at most 4'):
    lanes.meshes(5, _run(size=2))


def test_other_devices_share_the_rows(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert not lanes.possible()
  run = _run(size=2)
  assert lanes.meshes(None, run) == lanes.meshes(1, run) == [run.mesh]
  with pytest.raises(UserError, match=r'devices \(tpu\); expected None'):
    lanes.meshes(2, run)


class _Cohort:
  """A cohort whose updates are counted."""

  def __init__(self, turns=3, error=None, waits=None):
    plan = types.SimpleNamespace(train_steps=turns)
    run = types.SimpleNamespace(plan=plan)
    self.members = [types.SimpleNamespace(run=run, number=0)]
    self._turns, self._error, self._waits = turns, error, waits
    self.interruption, self.made = loop.Interruption(), 0

  def run(self, progress):
    if self._waits:
      self._waits.wait(20)
    for _ in range(self._turns):
      if self.interruption.requested:
        return
      self.made += 1
    if self._error:
      raise self._error


def _trained(interruption, *every):
  for lane in every:
    for cohort in lane:
      cohort.interruption = interruption
  lanes.run(every, interruption)
  return [[cohort.made for cohort in lane] for lane in every]


def test_those_of_a_lane_follow_one_another():
  made = _trained(loop.Interruption(), [_Cohort(3), _Cohort(5)])
  assert made == [[3, 5]]
  assert _trained(loop.Interruption(), [_Cohort(3)], [_Cohort(7)]) == [[3], [7]]


def test_interrupted_none_begins():
  interruption = loop.Interruption()
  interruption.requested = True
  assert _trained(interruption, [_Cohort()], [_Cohort()]) == [[0], [0]]


def test_what_one_raises_ends_all():
  """The other goes on no longer than until it can save."""
  told = threading.Event()

  class Told(loop.Interruption):
    """Lets the other go once a stop is asked for."""

    def __setattr__(self, name, value):
      super().__setattr__(name, value)
      if name == 'requested' and value:
        told.set()

  interruption = Told()
  bad, good = _Cohort(error=OSError('no room')), _Cohort(waits=told)
  with pytest.raises(OSError, match='no room'):
    _trained(interruption, [bad], [good])
  assert told.is_set() and (bad.made, good.made) == (3, 0)


def _counted(code, **variables):
  """What a process prints that has no devices yet."""
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | variables
  command = [sys.executable, '-c', f'import jax\n{code}']
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


@pytest.mark.slow  # processes
def test_asked_for_before_jax_starts():
  ask = 'from prompt_jax import lanes; lanes.ask({})'
  count = 'print(jax.device_count())'
  cores = min(2, len(os.sched_getaffinity(0)))
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
