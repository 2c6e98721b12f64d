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
  monkeypatch.setattr(probe, '_seconds', table.__getitem__)
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
  seconds.clear()  # measuring would raise KeyError
  monkeypatch.setattr(jax, name, lambda: value)
  assert probe.activation_dtype() == 'bfloat16'


def test_a_product_takes_some_time():
  assert 0 < probe._seconds('bfloat16') < 60
