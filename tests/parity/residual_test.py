"""Residual prompts against the released code of Razdaibiedina et al. 2023."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.prompts import LSTM, MLP, Prompt, Residual, Transformer
from tests.parity.golden import part
from tests.shared import fixtures

CLOSE = dict(rtol=1e-5, atol=1e-5)  # README of the folder
CLOSE_GRADIENT = dict(rtol=1e-4, atol=1e-5)
FILES = ('residual', 'residual_transformer')
ACTIVATIONS = {'relu': 'relu', 'tanh': 'tanh', 'sigm': 'sigmoid'}


@functools.cache
def _stored(file):
  return np.load(fixtures('residual') / f'{file}.npz')


def _cases():
  """[(file, case)] of the golden arrays; none where they are not here."""
  try:
    return [
      (file, name.removesuffix('/output'))
      for file in FILES
      for name in _stored(file).files
      if name.endswith('/output')
    ]
  except pytest.skip.Exception:
    return []


def _mlp(theirs):
  """{our path: array} of a bottleneck; Linear is stored [out,in]."""
  names = {'module.0': 'down', 'module.2': 'up'}
  leaves = {'weight': 'kernel', 'bias': 'bias'}
  flat = {}
  for name, array in theirs.items():
    module, leaf = name.rsplit('.', 1)
    if module in names:
      array = array.swapaxes(-1, -2) if leaf == 'weight' else array
      flat[f'{names[module]}/{leaves[leaf]}'] = array
    else:
      flat['norm/' + {'weight': 'scale', 'bias': 'bias'}[leaf]] = array
  return flat


def _lstm(theirs):
  """{our path: array} of directions of layers."""
  flat = {}
  for name, array in theirs.items():
    leaf, which, layer, back = re.fullmatch(
      r'lstm_head\.(weight|bias)_(ih|hh)_l(\d+)(_reverse)?', name
    ).groups()
    way = 'backward' if back else 'forward'
    where = {'ih': 'input', 'hh': 'recurrent'}[which]
    kernel = leaf == 'weight'
    own = f'layer_{layer}_{way}/{where}/{"kernel" if kernel else "bias"}'
    flat[own] = array.T if kernel else array
  return flat


def _transformer(theirs):
  """{our path: array}; their q, k, v are rows of one matrix."""
  flat = {}
  places = {
    'self_attn.out_proj': 'out',
    'linear1': 'wi',
    'linear2': 'wo',
    'norm1': 'attention_norm',
    'norm2': 'mlp_norm',
  }
  for name, array in theirs.items():
    layer, rest = re.fullmatch(r'module\.layers\.(\d+)\.(.*)', name).groups()
    if 'in_proj' in rest:
      thirds = np.split(np.asarray(array), 3)
      for where, third in zip(('query', 'key', 'value'), thirds, strict=True):
        leaf = 'kernel' if third.ndim == 2 else 'bias'
        flat[f'layer_{layer}/{where}/{leaf}'] = third.T
      continue
    module, leaf = rest.rsplit('.', 1)
    names = {'weight': 'scale' if 'norm' in module else 'kernel'}
    own = f'layer_{layer}/{places[module]}/{names.get(leaf, leaf)}'
    flat[own] = array.T
  return flat


def _of(case, stored):
  """(factory of the network, translation of names, settings of Residual)."""
  settings = dict(separate='separate' in case, residual='res1' in case)
  if case.startswith('MLP'):
    down = stored[f'{case}/param/module.0.weight']
    kind = functools.partial(
      MLP,
      bottleneck=down.shape[-2],
      passes=int(case[3]),
      activation=ACTIVATIONS[case.split('_')[1]],
      layer_norm='ln1' in case,
      dropout=0.3 if 'dropout' in case else 0.0,
    )
    return kind, _mlp, settings
  if case.startswith('LSTM'):
    return functools.partial(LSTM, layers=int(case[4])), _lstm, settings
  wide = f'{case}/param/module.layers.0.linear1.bias'
  kind = functools.partial(Transformer, hidden=len(stored[wide]))
  return kind, _transformer, settings


@functools.cache
def _made(file, case):
  """(source, parameters, `(parameters) -> [P,H]`, cotangent, wanted)."""
  stored = _stored(file)
  kind, ours, settings = _of(case, stored)
  even = '' if case.startswith('MLP') else '_even'  # LSTM needs even widths
  prompt, cotangent = stored[f'prompt{even}'], stored[f'cotangent{even}']
  source = Residual(functools.partial(Prompt, len(prompt)), kind, **settings)

  def under(what):
    leaves = ours(part(stored, f'{case}/{what}/'))
    return {f'network/{path}': x for path, x in leaves.items()}

  flat = {'inner/prompt': jnp.asarray(prompt), **under('param')}
  wanted = {'inner/prompt': stored[f'{case}/grad_prompt'], **under('grad')}
  embeds = jnp.zeros((2, 1, prompt.shape[1]))
  task_ids, mask = jnp.zeros(2, jnp.int32), jnp.ones((2, 1), bool)

  def out(flat):
    variables = {'params': params.unflatten(flat)}
    return source.apply(variables, task_ids, embeds, mask)

  return source, flat, out, cotangent, wanted


every_case = pytest.mark.parametrize(('file', 'case'), _cases())


@every_case
def test_parameter_tree(file, case):
  source, flat, _, _, _ = _made(file, case)
  width = flat['inner/prompt'].shape[1]
  made = jax.eval_shape(
    source.init,
    jax.random.key(0),
    jnp.zeros(1, jnp.int32),
    jnp.zeros((1, 1, width)),
    jnp.ones((1, 1), bool),
  )['params']
  assert params.difference(params.flatten(nn.meta.unbox(made)), flat) == []


@every_case
def test_output(file, case):
  _, flat, out, _, _ = _made(file, case)
  wanted = _stored(file)[f'{case}/output']
  for row in jax.jit(out)(flat):
    np.testing.assert_allclose(row, wanted, **CLOSE)


@every_case
def test_gradients(file, case):
  _, flat, out, cotangent, wanted = _made(file, case)
  total = lambda flat: jnp.sum(jnp.asarray(cotangent) * out(flat)[0])
  got = jax.jit(jax.grad(total))(flat)
  assert got.keys() == wanted.keys()
  for path, gradient in wanted.items():
    np.testing.assert_allclose(
      got[path], gradient, **CLOSE_GRADIENT, err_msg=path
    )
