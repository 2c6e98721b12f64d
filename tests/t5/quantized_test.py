"""int8 kernels: how far they are off, what they hold, where they may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5 import pretrained, quantized
from prompt_jax.t5.product import product
from prompt_jax.t5.quantized import Quantized, quantize, quantized_product
from prompt_jax.training import state as states
from prompt_jax.training.step import forward
from tests import models
from tests.jaxprs import dots

D, F = 71, 73


def _draw(*shape, seed=7):
  draws = np.random.default_rng([seed, *shape])
  return draws.normal(size=shape).astype(np.float32)


def _held(model, flat, config):
  shapes = states.base_shapes(model)
  keep = lambda path, x: quantized.stored(path, x, config)
  return {p: keep(p, x) if p in shapes else x for p, x in flat.items()}


@pytest.mark.parametrize('xp', [np, jnp], ids=['host', 'device'])
def test_a_kernel_is_off_by_half_a_scale(xp):
  kernel = _draw(D, F)
  kernel[:, 5] = 0
  held = quantize(xp.asarray(kernel))
  assert (held.shape, held.dtype, held.scale.shape) == ((D, F), 'int8', (F,))
  assert isinstance(held.values, jax.Array) == (xp is jnp)
  error = np.abs(quantized.dequantize(held) - kernel)
  assert (error <= np.asarray(held.scale) * (0.5 + 1e-5)).all()
  assert not error[:, 5].any()
  assert np.abs(held.values).max(0)[:5].tolist() == [127] * 5


@pytest.mark.parametrize('lead', [(11,), (2, 11), (2, 3, 11)])
def test_error_of_a_product_is_bounded(lead):
  x, kernel = _draw(*lead, D), _draw(D, F)
  held = quantize(kernel)
  got = quantized_product(jnp.asarray(x), held, 'float32')
  assert got.dtype == jnp.float32
  size = np.abs(x).max(-1, keepdims=True) / 127
  scale = held.scale.reshape((1,) * len(lead) + (F,))
  bound = (
    np.abs(x).sum(-1, keepdims=True) * scale
    + size * np.abs(kernel).sum(0).reshape(scale.shape)
  ) / 2 + D * size * scale / 4
  error = np.abs(got - x @ kernel)
  assert (error <= bound * (1 + 1e-4)).all()
  # rounding errors are spread evenly, so that most of them cancel
  assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(got**2))


def test_products_are_int8_forward_and_keep_the_dtype_backward():
  x, held, g = jnp.asarray(_draw(11, D)), quantize(_draw(D, F)), _draw(11, F)
  run = lambda x: quantized_product(x, held, 'bfloat16')
  assert dots(run, x) == [('int8', 'int8', 'int32')]
  pull = lambda x: jax.vjp(run, x)[1](jnp.asarray(g))[0]
  assert dots(pull, x)[1:] == [('bfloat16', 'bfloat16', 'float32')]


@pytest.mark.parametrize(
  # bfloat16 rounds the cotangent by 2^-9 of each term
  'dtype, tolerance',
  [('float32', 1e-6), ('bfloat16', 2**-8)],
)
def test_gradient_is_that_of_the_dequantized_product(dtype, tolerance):
  x, held = jnp.asarray(_draw(3, 11, D)), quantize(_draw(D, F))
  g = jnp.asarray(_draw(3, 11, F))
  got = jax.vjp(lambda x: quantized_product(x, held, dtype), x)[1](g)[0]
  kernel = jnp.asarray(quantized.dequantize(held))
  expected = jax.vjp(lambda x: product(x, kernel, 'float32'), x)[1](g)[0]
  size = float(jnp.abs(expected).max())
  np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * size)


def test_a_token_of_zeros_gives_zeros():
  x = jnp.zeros((1, D))
  assert not quantized_product(x, quantize(_draw(D, F)), 'float32').any()


@pytest.mark.parametrize('wi', [('relu',), ('gelu', 'linear')])
def test_all_dense_kernels_but_that_of_the_logits(wi):
  model = models.make('encoder', mlp_activations=wi)
  shapes = states.abstract(model)[0]
  dense = {path for path in shapes if quantized.is_dense(path)}
  kernels = {path for path in shapes if path.endswith('/kernel')}
  assert kernels - dense == {'decoder/logits_dense/kernel'}
  assert dense <= kernels


def test_the_model_runs_on_them_in_a_quarter_of_the_memory():
  model = models.make('encoder', frozen_dtype='int8', d_model=67, d_ff=211)
  flat, batch = models.initial(model), models.batch()
  held = _held(model, flat, model.config)
  apart = models.logits(model, held, batch) - models.logits(model, flat, batch)
  spread = float(jnp.std(models.logits(model, flat, batch)))
  assert 0 < float(jnp.sqrt(jnp.mean(apart**2))) < 0.05 * spread

  def taken(flat):
    compiled = jax.jit(lambda f, b: forward(model, f, b)).lower(flat, batch)
    return compiled.compile().memory_analysis().argument_size_in_bytes

  dense = params.count({p: x for p, x in flat.items() if quantized.is_dense(p)})
  saved = taken(flat) - taken(held)
  # 4 bytes become 1, and 4 for each output, of which there is one in D
  assert 2.9 * dense < saved < 3 * dense


def test_a_base_is_loaded_into_them_under_its_own_digest(monkeypatch):
  plain = models.make('plain')
  flat = {p: np.asarray(x) for p, x in models.initial(plain).items()}
  monkeypatch.setattr(pretrained, 'leaves', lambda *_: sorted(flat.items()))
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  load = lambda model: states.load_base(
    model, '', (), dict.fromkeys(flat, here)
  )
  narrow = models.make('plain', frozen_dtype='int8')
  (whole, digest), (held, same) = load(plain), load(narrow)
  assert digest == same
  for path, leaf in held.items():
    assert isinstance(leaf, Quantized) == quantized.is_dense(path)
    assert leaf.shape == whole[path].shape
  opened = quantized.opened(held)
  assert len(opened) == len(held) + sum(map(quantized.is_dense, held))
  assert states.digest(opened) != states.digest(whole)


def test_scales_lie_with_their_outputs():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('model',))
  spec = jax.sharding.PartitionSpec(None, 'model')
  sharding = jax.sharding.NamedSharding(mesh, spec)
  held = quantized.placed(quantize(_draw(D, F)), sharding)
  assert held.values.sharding.spec == spec
  assert held.scale.sharding.spec == jax.sharding.PartitionSpec('model')


def test_kernels_that_train_are_refused():
  config = models.config(frozen_dtype='int8')
  paths = ['encoder/prompt/prompt', 'encoder/layers_0/mlp/wo/kernel']
  quantized.check(config, paths[:1])
  quantized.check(models.config(), paths, is_staged=True)
  with pytest.raises(UserError) as caught:
    quantized.check(config, paths)
  assert str(caught.value) == (
    "FROZEN_DTYPE is 'int8', and 1 dense kernels train, such as "
    'encoder/layers_0/mlp/wo/kernel; expected all of them to be frozen, for '
    'a step of an optimizer is smaller than one of int8. Set '
    'FROZEN_DTYPE=None, or take a method that leaves the kernels of the base '
    'alone.'
  )


def test_stages_are_refused():
  with pytest.raises(UserError) as caught:
    quantized.check(models.config(frozen_dtype='int8'), (), is_staged=True)
  assert str(caught.value) == (
    "FROZEN_DTYPE is 'int8' in a run with stages; expected the whole model in "
    'every stage, for parts are cut out of floating kernels. Set '
    'FROZEN_DTYPE=None, or take runs/train.gin.'
  )
