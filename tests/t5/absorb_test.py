"""Kernels that meet the queries give what keys and values would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import predict
from prompt_jax.inserts.ia3 import IA3
from prompt_jax.predict import Decoding
from prompt_jax.t5 import absorb
from prompt_jax.t5.absorb import absorbed, absorbs
from prompt_jax.t5.attend import attend, split
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.layers import Attention
from prompt_jax.t5.product import product
from prompt_jax.t5.quantized import quantize
from tests import models

B, N, Q, K, J, H = 3, 5, 2, 11, 13, 17
CLOSE = {'float32': 1e-5, 'bfloat16': 0.03}  # of the largest entry
MASKED = -1e10
OWN = ('key', 'value')  # the kernels that meet the queries


def _operands():
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  add = jnp.where(jnp.arange(J)[None] < J - jnp.arange(B)[:, None], 0.0, MASKED)
  return (
    normal(B, N, Q, K) / K,
    normal(B, J, H),
    normal(H, N * K) / H**0.5,
    normal(H, N * K) / H**0.5,
    add[:, None, None],
  )


def _plain(query, context, key, value, add, dtype):
  heads = lambda w: split(product(context, w, dtype), N, dtype)
  return attend(query, heads(key), heads(value), add, dtype)


def _near(found, wanted, dtype):
  assert found.shape == wanted.shape and found.dtype == wanted.dtype
  most = CLOSE[dtype] * np.abs(wanted).max()
  np.testing.assert_allclose(found, wanted, rtol=0, atol=most)


@pytest.mark.parametrize('dtype', CLOSE)
def test_values_and_gradients_are_those_of_keys_and_values(dtype):
  operands = _operands()
  both = [
    jax.vjp(lambda *args, f=f: f(*args, dtype), *operands)
    for f in (absorbed, _plain)
  ]
  (found, back), (wanted, back_wanted) = both
  _near(found, wanted, dtype)
  g = jnp.asarray(np.random.default_rng(1).normal(size=found.shape), 'float32')
  # a mask has no gradient that anyone asks for
  for one, other in zip(back(g)[:4], back_wanted(g)[:4], strict=True):
    _near(one, other, dtype)


@pytest.mark.parametrize(
  ('queries', 'keys', 'is_worth_it'),
  [(8, 228, True), (24, 228, True), (32, 228, False), (4, 5, False)],
)
def test_few_queries_to_many_positions(queries, keys, is_worth_it):
  config = T5Config(101, 512, 64, 1024, 6, 8, 8, ('gelu', 'linear'), False)
  assert absorbs(config, queries, keys) == is_worth_it


def _attended(length, inserts=(), make=lambda w: w):
  """(output, whether it made keys) of a cross attention, random weights."""
  config = models.config(
    d_model=H, d_kv=K, num_heads=N, activation_dtype='float32'
  )
  model = Attention(config, inserts)
  rng = np.random.default_rng(2)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, context = normal(B, length, H), normal(B, J, H)
  tree = {
    name: {'kernel': normal(H, N * K) / H**0.5}
    for name in ('query', 'key', 'value')
  }
  tree |= {name: {'kernel': make(tree[name]['kernel'])} for name in OWN}
  tree['out'] = {'kernel': normal(N * K, H) / (N * K) ** 0.5}
  if inserts:
    tree['value_insert'] = {'scale': jnp.full(N * K, 2.0)}
  allowed = jnp.ones((B, 1, 1, J), bool)
  run = lambda tree: model.apply({'params': tree}, x, context, allowed)
  return run(tree), f'f32[{B},{J},{N * K}]' in str(jax.make_jaxpr(run)(tree))


def test_attention_makes_keys_for_many_queries_alone():
  (short, makes_short), (long, makes_long) = _attended(Q), _attended(K)
  assert (makes_short, makes_long) == (False, True)
  assert short.shape == (B, Q, H) and long.shape == (B, K, H)


def test_an_insert_has_its_keys_and_values():
  (found, makes), (plain, _) = _attended(Q, [('.*value', IA3)]), _attended(Q)
  assert makes
  np.testing.assert_allclose(found, 2 * plain, rtol=1e-4, atol=1e-5)


def test_int8_kernels_are_opened():
  found, makes = _attended(Q, make=quantize)
  plain, _ = _attended(Q)
  assert not makes
  _near(found, plain, 'bfloat16')
  assert (found != plain).any()


DECODINGS = {
  'beam': Decoding('beam', 3),
  'sample': Decoding('sample', 2, seed=5),
}


def _decoded(decoding, source='encoder', **changes):
  """(tokens, log probabilities, whether keys were made) of three targets."""
  model = models.make(source, d_kv=41, activation_dtype='float32', **changes)
  flat, rows = models.initial(model), models.batch()
  for path in flat:  # an insert that is 1 would not be missed
    if path.endswith('_insert/scale'):
      flat[path] = jnp.linspace(-2, 3, flat[path].size)
  run = predict.decoder(model, 3, decoding)
  context = models.P + max(models.INPUTS)
  keys = f'f32[{len(models.INPUTS)},{context},{models.N * 41}]'
  # the encoder makes its own; of the decoder are more
  made = str(jax.make_jaxpr(run)(flat, rows)).count(keys)
  return *jax.jit(run)(flat, rows), made


@pytest.mark.parametrize('name', DECODINGS)
def test_decoding_without_keys_is_the_same(name, monkeypatch):
  tokens, scores, few = _decoded(DECODINGS[name])
  monkeypatch.setattr(absorb, 'WORTH', 1000)
  wanted, wanted_scores, many = _decoded(DECODINGS[name])
  np.testing.assert_array_equal(tokens, wanted)
  np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-4)
  assert few < many


@pytest.mark.parametrize(
  'changes',
  [
    {'source': 'both'},
    {'remat': 'full'},
    {'inserts': [('decoder/.*/value', IA3)]},
  ],
  ids=str,
)
def test_decoding_of_other_models_is_the_same(changes, monkeypatch):
  tokens, scores, _ = _decoded(Decoding(), **changes)
  monkeypatch.setattr(absorb, 'WORTH', 1000)
  wanted, wanted_scores, _ = _decoded(Decoding(), **changes)
  np.testing.assert_array_equal(tokens, wanted)
  np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-4)
