"""'auto' is measured on a CPU, and a configuration holds what it became."""

import dataclasses

import jax
import pytest

from prompt_jax.t5 import probe
from tests import models


@pytest.fixture
def seconds(monkeypatch):
  """What each dtype takes; nothing is measured, nothing stays remembered."""
  table = {'bfloat16': 2.0, 'float32': 1.0}
  monkeypatch.setattr(probe, '_seconds', lambda: dict(table))
  probe.activation_dtype.cache_clear()
  yield table
  probe.activation_dtype.cache_clear()


@pytest.mark.parametrize('faster', ['float32', 'bfloat16'])
def test_the_faster_one_is_taken_and_held(seconds, faster):
  seconds[faster] = 0.5
  config = models.config(activation_dtype='auto')
  assert config.activation_dtype == faster
  assert config == models.config(activation_dtype=faster)
  assert hash(config) == hash(models.config(activation_dtype=faster))
  assert dataclasses.replace(config, d_ff=7).activation_dtype == faster


def test_it_is_measured_once(seconds):
  assert probe.activation_dtype() == 'float32'
  seconds['bfloat16'] = 0.1
  assert probe.activation_dtype() == 'float32'


@pytest.mark.parametrize(
  'name, value', [('default_backend', 'tpu'), ('process_count', 2)]
)
def test_accelerators_and_several_hosts_are_not_measured(
  seconds, monkeypatch, name, value
):
  seconds.clear()  # measuring would raise ValueError: nothing to choose from
  monkeypatch.setattr(jax, name, lambda: value)
  assert probe.activation_dtype() == 'bfloat16'


def test_products_take_some_time():
  found = probe._seconds()
  assert found.keys() == {'bfloat16', 'float32'}
  assert all(0 < each < 60 for each in found.values())


def test_a_busy_spell_meets_both(monkeypatch):
  """Five calls of any kind take ten times as long; the order stays right."""
  clock, calls = [0.0], []

  def call(name, seconds):
    calls.append(name)
    clock[0] += seconds * (10 if len(calls) <= 5 else 1)

  monkeypatch.setattr(probe.time, 'perf_counter', lambda: clock[0])
  found = probe._fastest(
    {'fast': lambda: call('fast', 1.0), 'slow': lambda: call('slow', 3.0)}
  )
  assert found == pytest.approx({'fast': 1.0, 'slow': 3.0})
  assert calls.count('fast') == calls.count('slow') >= 5
