"""The parts of a layer against their equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.t5.layers import (
  MLP,
  Attention,
  Dropout,
  Embed,
  RelativePositionBias,
  RMSNorm,
  buckets,
)
from tests import models

B, T, J, H, N, K, F = 2, 7, 11, models.H, models.N, models.K, models.F
CLOSE = dict(rtol=1e-5, atol=1e-5)


def _draw(*shape, seed=5):
  draws = np.random.default_rng([seed, *shape])
  return draws.normal(size=shape).astype(np.float32)


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def test_norm_divides_by_the_root_mean_square():
  x, scale = _draw(B, T, H), _draw(H)
  got = RMSNorm(1e-6).apply({'params': {'scale': scale}}, x)
  root = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(got, x / root * scale, **CLOSE)
  narrow = RMSNorm().apply(
    {'params': {'scale': scale.astype(jnp.bfloat16)}}, x.astype(jnp.bfloat16)
  )
  assert narrow.dtype == jnp.float32


def _heads(x, kernel):
  """[B,T,H] -> [B,N,T,K]."""
  return (x @ kernel).reshape(*x.shape[:2], N, K).transpose(0, 2, 1, 3)


def test_attention_is_softmax_without_a_scale():
  x, context = _draw(B, T, H), _draw(B, J, H)
  bias = _draw(1, N, T, J)
  allowed = np.arange(J)[None] < np.array([[J], [3]])  # [B,J]
  kernels = {
    name: _draw(H, N * K, seed=i)
    for i, name in enumerate(('query', 'key', 'value'))
  } | {'out': _draw(N * K, H)}
  variables = {'params': {k: {'kernel': w} for k, w in kernels.items()}}
  got = Attention(models.config()).apply(
    variables, x, context, allowed[:, None, None], bias
  )
  query = _heads(x, kernels['query'])
  key, value = (_heads(context, kernels[name]) for name in ('key', 'value'))
  scores = np.einsum('bntk,bnjk->bntj', query, key) + bias
  scores = np.where(allowed[:, None, None], scores, -np.inf)
  y = np.einsum('bntj,bnjk->btnk', _softmax(scores), value)
  expected = y.reshape(B, T, N * K) @ kernels['out']
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_query_initialiser_holds_the_scale_of_the_scores():
  wide = models.config(d_model=101, d_kv=103)
  x = jnp.zeros((1, 1, 101))
  allowed = jnp.ones((1, 1, 1, 1), bool)
  made = Attention(wide).init(jax.random.key(0), x, x, allowed)['params']
  spread = {name: made[name]['kernel'].value.std() for name in made}
  np.testing.assert_allclose(spread['key'], 101**-0.5, rtol=0.05)
  np.testing.assert_allclose(spread['query'], (101 * 103) ** -0.5, rtol=0.05)


def _gelu(x):
  """The tanh form, which T5 1.1 was trained with."""
  inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def test_gated_and_plain_mlp():
  x, wo = _draw(B, T, H), _draw(F, H)
  one, other = _draw(H, F, seed=1), _draw(H, F, seed=2)
  params = {'wi_0': one, 'wi_1': other, 'wi': one, 'wo': wo}
  wrap = lambda *names: {
    'params': {name: {'kernel': params[name]} for name in names}
  }
  gated = MLP(models.config()).apply(wrap('wi_0', 'wi_1', 'wo'), x)
  expected = (_gelu(x @ one) * (x @ other)) @ wo
  np.testing.assert_allclose(gated, expected, rtol=1e-4, atol=1e-4)
  config = models.config(mlp_activations=('relu',))
  plain = MLP(config).apply(wrap('wi', 'wo'), x)
  expected = np.maximum(x @ one, 0) @ wo
  np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-4)


def test_embedding_looks_up_and_ties():
  table, y = _draw(models.V, H), _draw(B, T, H)
  variables = {'params': {'embedding': table}}
  tokens = np.array([[0, 30, 2], [3, 3, 29]])
  embed = Embed(models.config())
  np.testing.assert_array_equal(embed.apply(variables, tokens), table[tokens])
  logits = embed.apply(variables, y, method='attend')
  np.testing.assert_allclose(logits, y @ table.T / np.sqrt(H), **CLOSE)


@pytest.mark.parametrize('bidirectional', [True, False])
def test_position_bias_depends_on_the_distance_only(bidirectional):
  module = RelativePositionBias(models.config(), bidirectional)
  variables = {'params': {'rel_embedding': _draw(N, 8)}}
  run = lambda shift: module.apply(
    variables, jnp.arange(T) + shift, jnp.arange(J) + shift
  )
  bias = run(0)
  assert bias.shape == (1, N, T, J)
  np.testing.assert_array_equal(bias, run(17))
  np.testing.assert_array_equal(bias[..., 1:, 1:], bias[..., :-1, :-1])


def test_buckets_tell_side_and_distance():
  far = np.arange(1, 301)
  before, after = (np.asarray(buckets(s * far, True)) for s in (-1, 1))
  np.testing.assert_array_equal(after, before + 16)
  np.testing.assert_array_equal(before[:7], far[:7])  # exact below 8
  assert (np.diff(before) >= 0).all() and before[127:].tolist() == [15] * 173
  causal = np.asarray(buckets(-far, False))
  np.testing.assert_array_equal(causal[:15], far[:15])  # exact below 16
  assert (np.diff(causal) >= 0).all() and causal[-1] == 31
  assert not np.asarray(buckets(far, False)).any()  # never follow


def test_dropout_is_one_mask_for_all_positions():
  x = jnp.ones((B, 53, 59))
  apply = lambda deterministic: Dropout(0.3).apply(
    {}, x, deterministic, rngs={'dropout': jax.random.key(1)}
  )
  np.testing.assert_array_equal(apply(True), x)
  dropped = np.asarray(apply(False))
  np.testing.assert_array_equal(dropped, dropped[:, :1].repeat(53, axis=1))
  kept = dropped[:, 0] > 0
  assert 0.5 < kept.mean() < 0.9
  np.testing.assert_allclose(dropped[:, 0][kept], 1 / 0.7, rtol=1e-6)
