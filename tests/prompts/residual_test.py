"""Networks over a prompt: formulas in NumPy, positions, counts, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts.lstm import LSTM
from prompt_jax.prompts.mlp import MLP
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.residual import Residual
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.prompts.transformer import Transformer
from tests.prompts.sources import apply, filled, initial, inputs

P, H, EVEN, M_ = 7, 13, 14, 11  # positions, widths, bottleneck
CLOSE = dict(rtol=1e-5, atol=1e-5)
Bottleneck = functools.partial(MLP, M_)
KINDS = {
  'mlp': Bottleneck,
  'lstm': LSTM,
  'transformer': functools.partial(Transformer, hidden=17),
}
every_kind = pytest.mark.parametrize('kind', KINDS)


def _source(kind=Bottleneck, inner=None, **settings):
  inner = inner or functools.partial(Prompt, P)
  return Residual(inner, kind, **settings)


def _norm(x, scale, bias):
  mean = x.mean(-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def _phi(flat, x):
  """The bottleneck of a row, as the paper writes it."""
  n = {k.removeprefix('network/'): np.asarray(v) for k, v in flat.items()}
  hidden = np.maximum(x @ n['down/kernel'] + n['down/bias'], 0)
  up = hidden @ n['up/kernel'] + n['up/bias']
  return _norm(up, n['norm/scale'], n['norm/bias'])


def test_formula():
  args = inputs(width=H)
  flat = filled(_source(), *args)
  p = np.asarray(flat['inner/prompt'])
  for skip in (True, False):
    got = apply(_source(residual=skip), flat, *args)
    wanted = _phi(flat, p) + (p if skip else 0)
    for row in got:
      np.testing.assert_allclose(row, wanted, **CLOSE)
  twice = apply(_source(functools.partial(MLP, M_, passes=2)), flat, *args)
  np.testing.assert_allclose(twice[0], p + _phi(flat, _phi(flat, p)), **CLOSE)


def test_a_network_for_each_position():
  args = inputs(width=H)
  source = _source(separate=True)
  flat = filled(source, *args)
  got, p = apply(source, flat, *args)[0], np.asarray(flat['inner/prompt'])
  for i in range(P):
    own = {k: v[i] for k, v in flat.items()}
    np.testing.assert_allclose(got[i], p[i] + _phi(own, p[i]), **CLOSE)


def test_a_mixed_batch_is_its_tasks_one_at_a_time():
  inner = functools.partial(TaskPrompts, 2, P)
  ids, embeds, mask = inputs(rows=5, width=H)
  source = _source(inner=inner)
  flat = filled(source, ids, embeds, mask)
  assert source.num_tasks == 2 and source.length == P
  mixed = apply(source, flat, ids, embeds, mask)
  for task in (0, 1):
    alone = apply(source, flat, jnp.full_like(ids, task), embeds, mask)
    rows = np.asarray(ids) == task
    np.testing.assert_allclose(mixed[rows], alone[rows], rtol=0, atol=1e-6)


def test_one_prompt_is_every_task():
  ids, embeds, mask = inputs(rows=5, width=H)
  flat = filled(_source(), ids, embeds, mask)
  got = apply(_source(), flat, ids + 3, embeds, mask)
  assert np.isfinite(got).all() and (got == got[:1]).all()


@every_kind
def test_only_mlps_keep_positions_apart(kind):
  args = inputs(width=EVEN)
  source = _source(KINDS[kind])
  flat = filled(source, *args)
  moved = flat['inner/prompt'].at[0].add(1.0)
  change = apply(source, flat | {'inner/prompt': moved}, *args)
  change = np.abs(change - apply(source, flat, *args))[0].max(axis=1)
  assert change[0] > 1e-3
  assert (change[1:] == 0).all() == (kind == 'mlp')


@every_kind
def test_dropout_acts_where_a_stream_is_given(kind):
  args = inputs(width=EVEN)
  settings = {'lstm': dict(layers=2)}.get(kind, {})
  make = lambda rate: _source(
    functools.partial(KINDS[kind], dropout=rate, **settings)
  )
  flat = filled(make(0.5), *args)
  plain = apply(make(0.0), flat, *args)
  np.testing.assert_array_equal(apply(make(0.5), flat, *args), plain)
  rngs = {'dropout': jax.random.key(1)}
  assert not np.array_equal(apply(make(0.5), flat, *args, rngs=rngs), plain)
  np.testing.assert_array_equal(apply(make(0.0), flat, *args, rngs=rngs), plain)


def test_a_network_of_zeros_leaves_the_prompt():
  args = inputs(width=H)
  flat = filled(_source(), *args)
  zero = ('network/up', 'network/norm')
  flat = {k: 0 * v if k.startswith(zero) else v for k, v in flat.items()}
  got = apply(_source(), flat, *args)[0]
  np.testing.assert_array_equal(got, flat['inner/prompt'])


def test_initial_range_is_that_of_pytorch():
  args = inputs(width=H)
  flat = initial(_source(functools.partial(MLP, 997)), *args)
  for name, fan_in in (('down', H), ('up', 997)):
    limit = fan_in**-0.5
    for leaf in ('kernel', 'bias'):
      largest = np.abs(flat[f'network/{name}/{leaf}']).max()
      assert largest <= limit
    assert np.abs(flat[f'network/{name}/kernel']).max() > 0.99 * limit
  assert (flat['network/norm/scale'] == 1).all()
  assert (flat['network/norm/bias'] == 0).all()


@pytest.mark.parametrize(
  'm, positions, network, total',
  # released code on T5 base
  [
    (50, 10, 79_154, 86_834),
    (400, 100, 617_104, 693_904),
    (800, 10, 1_231_904, 1_239_584),
    (1500, 100, 2_307_804, 2_384_604),
  ],
)
def test_counts_of_t5_base(m, positions, network, total):
  source = Residual(
    functools.partial(Prompt, positions), functools.partial(MLP, m)
  )
  ids, embeds, mask = inputs(rows=1, width=768)
  made = jax.eval_shape(source.init, jax.random.key(0), ids, embeds, mask)
  flat = params.flatten(made['params'])
  flat = {k: v.value for k, v in flat.items()}
  assert params.count(flat) == total
  assert params.count({k: v for k, v in flat.items() if 'net' in k}) == network


@pytest.mark.parametrize(
  'kind, message',
  [
    (LSTM, 'LSTM got a prompt of width 13; expected an even one'),
    (Transformer, 'got heads=2 and a prompt of width 13; expected a divisor'),
    (
      functools.partial(MLP, activation='rely'),
      "activation='rely'; expected one of relu, tanh, sigmoid. Did you mean "
      "'relu'",
    ),
  ],
)
def test_errors(kind, message):
  with pytest.raises(UserError, match=message):
    initial(_source(kind), *inputs(width=H))
