"""Settings that no T5 has are refused, with what to set instead."""

import dataclasses

import pytest

from prompt_jax.errors import UserError
from prompt_jax.t5.config import T5Config
from tests import models


def test_float16_is_refused_with_the_reason():
  with pytest.raises(UserError) as caught:
    models.config(activation_dtype='float16')
  assert str(caught.value) == (
    "ACTIVATION_DTYPE is 'float16'; expected 'float32' or 'bfloat16'. "
    'Activations of T5 overflow in float16 (its largest number is 65504) and '
    "the loss becomes NaN. Use 'bfloat16'."
  )


@pytest.mark.parametrize(
  'name, value, allowed',
  [
    ('activation_dtype', 'float64', "('float32', 'bfloat16', 'auto')"),
    ('frozen_dtype', 'int4', "(None, 'int8')"),
    ('remat', 'some', "('none', 'full')"),
    ('mlp_activations', ('silu',), "(('relu',), ('gelu', 'linear'))"),
  ],
)
def test_unknown_setting_shows_what_is_known(name, value, allowed):
  with pytest.raises(UserError) as caught:
    models.config(**{name: value})
  assert str(caught.value) == (
    f'T5Config.{name} is {value!r}; expected one of {allowed}.'
  )


def test_a_list_of_activations_is_the_tuple():
  listed = models.config(mlp_activations=['gelu', 'linear'])
  assert listed == models.config(mlp_activations=('gelu', 'linear'))
  assert hash(listed) == hash(models.config())
  assert (
    listed.is_gated and not models.config(mlp_activations=['relu']).is_gated
  )


def test_it_is_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    models.config().d_model = 5


def test_defaults_are_those_of_t5():
  c = T5Config(2, 3, 5, 7, 11, 13, 17)
  assert (c.relpos_num_buckets, c.relpos_max_distance) == (32, 128)
  assert c.layer_norm_epsilon == 1e-6 and c.activation_dtype == 'float32'
  assert c.dropout_rate == 0 and c.remat == 'none' and not c.tied_logits
