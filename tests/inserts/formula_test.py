"""Every insert by itself against its formula in NumPy."""

import jax
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.inserts.adapter import Adapter
from prompt_jax.inserts.bias import Bias
from prompt_jax.inserts.ia3 import IA3
from prompt_jax.inserts.lora import LoRA

B, T, D, F, M = 3, 5, 7, 11, 2
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def arrays():
  """`(shape) -> random float32`, another at each call."""
  rng = np.random.default_rng(13)
  return lambda *shape: rng.normal(size=shape).astype(np.float32)


def _initial(insert, y, x):
  return insert.init(jax.random.key(0), y, x)['params']


def test_ia3(arrays):
  y, scale = arrays(B, T, F), arrays(F)
  got = IA3().apply({'params': {'scale': scale}}, y, None)
  np.testing.assert_allclose(got, y * scale, **CLOSE)
  np.testing.assert_array_equal(_initial(IA3(), y, None)['scale'], np.ones(F))


def test_bias(arrays):
  y, bias = arrays(B, T, F), arrays(F)
  got = Bias().apply({'params': {'bias': bias}}, y, None)
  np.testing.assert_allclose(got, y + bias, **CLOSE)
  np.testing.assert_array_equal(_initial(Bias(), y, None)['bias'], np.zeros(F))


def test_lora(arrays):
  y, x, a, b = arrays(B, T, F), arrays(B, T, D), arrays(D, M), arrays(M, F)
  insert = LoRA(rank=M, alpha=6.0)
  got = insert.apply({'params': {'lora_a': a, 'lora_b': b}}, y, x)
  np.testing.assert_allclose(got, y + 6.0 / M * (x @ a @ b), **CLOSE)


def test_lora_starts_as_its_released_code():
  y, x = np.zeros((1, 1, F), np.float32), np.zeros((1, 1, 997), np.float32)
  made = _initial(LoRA(rank=13), y, x)
  np.testing.assert_array_equal(made['lora_b'], np.zeros((13, F)))
  a, bound = np.asarray(made['lora_a']), 997**-0.5
  assert np.abs(a).max() <= bound
  np.testing.assert_allclose(a.std(), bound / 3**0.5, rtol=0.02)
  np.testing.assert_allclose(a.mean(), 0, atol=bound / 50)


@pytest.mark.parametrize('activation', ['relu', 'gelu'])
def test_adapter(arrays, activation):
  own = {
    'down_kernel': arrays(F, M),
    'down_bias': arrays(M),
    'up_kernel': arrays(M, F),
    'up_bias': arrays(F),
  }
  y = arrays(B, T, F)
  hidden = y @ own['down_kernel'] + own['down_bias']
  cubic = (2 / np.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)
  act = {
    'relu': np.maximum(hidden, 0),
    'gelu': 0.5 * hidden * (1 + np.tanh(cubic)),
  }[activation]
  got = Adapter(M, activation).apply({'params': own}, y, None)
  wanted = y + act @ own['up_kernel'] + own['up_bias']
  np.testing.assert_allclose(got, wanted, **CLOSE)


def test_adapter_starts_with_nothing_to_add():
  y = np.zeros((1, 1, 997), np.float32)
  made = _initial(Adapter(13), y, None)
  for name in ('down_bias', 'up_kernel', 'up_bias'):
    assert not np.asarray(made[name]).any(), name
  down = np.asarray(made['down_kernel'])
  # a deviation of 1e-2, cut at two of them, which leaves 0.88 of it
  np.testing.assert_allclose(down.std(), 0.88e-2, rtol=0.02)
  assert 1.9e-2 < np.abs(down).max() <= 2e-2


@pytest.mark.parametrize(
  'insert, said',
  [
    (LoRA(rank=0), 'rank=0; expected a whole number, at least 1.*Set RANK'),
    (
      Adapter(0),
      'bottleneck=0; expected a whole number, at least 1 .*Set BOTTLENECK',
    ),
    (Adapter(2, 'tanh'), "activation='tanh'; expected one of relu, gelu"),
  ],
)
def test_settings_that_cannot_be(insert, said):
  y = np.zeros((1, 1, F), np.float32)
  with pytest.raises(UserError, match=said):
    _initial(insert, y, y)


@pytest.mark.parametrize('insert', [IA3(), Bias(), LoRA(M), Adapter(M)])
def test_bitwise_the_identity_at_first(arrays, insert):
  y, x = arrays(B, T, F), arrays(B, T, D)
  made = _initial(insert, y, x)
  np.testing.assert_array_equal(insert.apply({'params': made}, y, x), y)
