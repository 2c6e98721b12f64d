"""Inserts are applied where their pattern says, and nowhere else."""

import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.inserts import KeyValues
from prompt_jax.t5.sites import select, sites
from prompt_jax.training.state import abstract
from tests import models


class Scale(nn.Module):
  """y * scale."""

  value: float = 1.0

  @nn.compact
  def __call__(self, y, x):
    del x
    init = nn.initializers.constant(self.value)
    scale = self.param('scale', init, y.shape[-1:])
    return y * scale.reshape((1,) * (y.ndim - 1) + (-1,))


class Widths(nn.Module):
  """y; keeps how wide the produced and the consumed are."""

  @nn.compact
  def __call__(self, y, x):
    init = nn.initializers.zeros
    self.param('produced', init, y.shape[-1:])
    self.param('consumed', init, x.shape[-1:])
    return y


KINDS = {'gated': {}, 'plain': {'mlp_activations': ('relu',)}}
ALL = sites(models.config())
GATED = [at for at in ALL if not at.endswith('/ahead')]
# One of each kind: the last layer of each stack.
EACH = [at for at in GATED if re.match('encoder/layers_1|decoder/layers_2', at)]


def _owners(flat, kind='insert'):
  """Sites whose inserts have parameters, in sorted order."""
  pattern = rf'(.*)_{kind}/[^/]*'
  found = {m[1] for path in flat if (m := re.fullmatch(pattern, path))}
  return sorted(found)


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_the_list_is_where_sites_are_called(kind):
  model = models.make(inserts=[('.*', Scale)], **kind)
  listed = sites(model.config)
  assert len(listed) == len(set(listed))
  products = [at for at in listed if not at.endswith('/ahead')]
  assert _owners(abstract(model)[0]) == sorted(products)
  rows = models.make(inserts=[('.*', KeyValues)], **kind)
  assert _owners(abstract(rows)[0]) == sorted({*listed} - {*products})


def test_what_each_site_produces_and_consumes():
  flat, _ = abstract(models.make(inserts=[('.*', Widths)]))
  H, F, joined = models.H, models.F, models.N * models.K
  widths = dict.fromkeys(('query', 'key', 'value'), (joined, H))
  widths |= dict.fromkeys(('wi_0', 'wi_1', 'hidden'), (F, H))
  widths |= {'out': (H, joined), 'wo': (H, F)}
  for at in GATED:
    produced, consumed = widths[at.split('/')[-1]]
    assert flat[f'{at}_insert/produced'].shape == (produced,), at
    assert flat[f'{at}_insert/consumed'].shape == (consumed,), at


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_an_insert_is_applied_at_its_site_only(remat):
  rows, base = models.batch(), models.initial(models.make())
  model = models.make(inserts=[('.*', Scale)], remat=remat)
  ones = {f'{at}_insert/scale' for at in GATED}
  shapes, _ = abstract(model)
  flat = base | {path: jnp.ones(shapes[path].shape) for path in ones}
  plain = models.logits(models.make(), base, rows)
  run = models.compiled(model)
  np.testing.assert_allclose(run(flat, rows), plain, rtol=1e-5, atol=1e-5)
  moved = []
  for at in EACH:
    path = f'{at}_insert/scale'
    other = run(flat | {path: 3 * flat[path]}, rows)
    assert np.abs(other - plain).max() > 1e-3, at
    moved.append(np.asarray(other))
    # the scale of a site is that of the kernel under it
    kernel = f'{at}/kernel'
    if kernel in flat:
      scaled = run(flat | {kernel: 3 * flat[kernel]}, rows)
      np.testing.assert_allclose(other, scaled, rtol=1e-4, atol=1e-4)


def test_inserts_at_one_site_follow_each_other():
  at = 'encoder/layers_1/mlp/hidden'
  table = [(at, Scale), ('.*/hidden', Scale)]
  model = models.make(inserts=table)
  flat, _ = abstract(model)
  assert f'{at}_insert/scale' in flat and f'{at}_insert_1/scale' in flat
  assert 'encoder/layers_0/mlp/hidden_insert/scale' in flat
  assert _owners(flat, 'insert_1') == [at]
  assert [len(met) for met in select(table, model.config)] == [1, 5]


def test_a_decoder_only_model_has_no_cross_attention():
  found = sites(models.config(num_encoder_layers=0))
  assert found and all('/encoder_decoder' not in at for at in found)
  assert {at.split('/')[0] for at in found} == {'decoder'}


def test_a_pattern_that_meets_no_site_shows_the_nearest():
  model = models.make(inserts=[('encoder/layers_1/attention/keys', Scale)])
  with pytest.raises(UserError) as caught:
    abstract(model)
  assert str(caught.value) == (
    "'encoder/layers_1/attention/keys' in inserts matches none of the 52 "
    'paths; expected at least one. Nearest: encoder/layers_1/attention/key, '
    'encoder/layers_0/attention/key, encoder/layers_1/attention/query. '
    'A pattern has to match the whole path.'
  )
