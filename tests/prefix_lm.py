"""A prefix language model of one row in NumPy, without padding or batches.

row    [ p_0 .. p_P-1  0  x_0 .. x_n-1  y_0 .. y_m-2 ]
seen   j <= i, or both of the first P + 1 + n
"""

import jax
import numpy as np

from prompt_jax import params, predict
from prompt_jax.t5.layers import buckets


def _norm(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def _gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _attention(config, weights, x, bias):
  heads = lambda name: (x @ weights(f'{name}/kernel')).reshape(
    len(x), config.num_heads, config.d_kv
  )
  scores = np.einsum('tnk,jnk->ntj', heads('query'), heads('key')) + bias
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  shares = scores / scores.sum(-1, keepdims=True)
  y = np.einsum('ntj,jnk->tnk', shares, heads('value'))
  return y.reshape(len(x), -1) @ weights('out/kernel')


def _mlp(config, weights, x):
  if config.is_gated:
    hidden = _gelu(x @ weights('wi_0/kernel')) * (x @ weights('wi_1/kernel'))
  else:
    hidden = np.maximum(x @ weights('wi/kernel'), 0)
  return hidden @ weights('wo/kernel')


def logits(config, flat, inputs, targets, slices=(), add=False, causal=False):
  """Logits of a row's targets, float64[m,V].

  Args:
    flat: {path: array} of a decoder-only model.
    inputs, targets: tokens without padding, n and m of them.
    slices: prompts [P,H] of the first layers.
    add: the later slices are added, not put in the place of the first.
    causal: the prefix sees only what came before, too.
  """
  weights = lambda path: np.asarray(flat[f'decoder/{path}'], np.float64)
  table = weights('token_embedder/embedding')
  h = table[[0, *inputs, *targets[:-1]]]
  if slices:
    h = np.concatenate([slices[0], h])
  seen = 0 if causal else len(h) - len(targets) + 1
  places = np.arange(len(h))
  ahead = places[None] - places[:, None]
  whole = (places[:, None] < seen) & (places[None] < seen)
  index = buckets(
    ahead, False, config.relpos_num_buckets, config.relpos_max_distance
  )
  bias = weights('relpos_bias/rel_embedding')[:, np.asarray(index)]
  bias = np.where((ahead <= 0) | whole, bias, -np.inf)
  for i in range(config.num_decoder_layers):
    if 0 < i < len(slices):
      size = len(slices[i])
      h[:size] = slices[i] + (h[:size] if add else 0)
    layer = lambda path, i=i: weights(f'layers_{i}/{path}')
    x = _norm(h, layer('pre_self_attention_layer_norm/scale'))
    own = lambda path, layer=layer: layer(f'self_attention/{path}')
    h = h + _attention(config, own, x, bias)
    x = _norm(h, layer('pre_mlp_layer_norm/scale'))
    h = h + _mlp(config, lambda path, layer=layer: layer(f'mlp/{path}'), x)
  h = _norm(h, weights('decoder_norm/scale'))[-len(targets) :]
  if config.tied_logits:
    return h @ table.T / np.sqrt(config.d_model)
  return h @ weights('logits_dense/kernel')


def rows(batch):
  """(inputs, targets) of each row, as lists without padding."""
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  pairs = zip(*(np.asarray(batch[name]) for name in names), strict=True)
  return [tuple(x[x > 0].tolist() for x in pair) for pair in pairs]


def stepwise(model, flat, batch):
  """Logits float32[B,U,V] by one step of decoding after the other."""
  variables = {'params': params.unflatten(flat)}
  tokens = batch['decoder_input_tokens']
  length, made = tokens.shape[1], []
  encoded = predict.encode(model, flat, batch)
  _, state = model.apply(
    variables,
    encoded,
    length,
    batch['task_ids'],
    method='start',
    mutable=['cache'],
  )
  step = jax.jit(
    lambda cache, tokens: model.apply(
      {**variables, **cache}, tokens, length, method='step', mutable=['cache']
    )
  )
  for u in range(length):
    out, state = step(state, tokens[:, u : u + 1])
    made.append(np.asarray(out))
  return np.stack(made, axis=1)
