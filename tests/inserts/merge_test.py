"""Merged models compute what their inserts did, or merging is refused."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params, tuned
from prompt_jax.errors import UserError
from prompt_jax.export_run import export_run
from prompt_jax.inserts import IA3, Adapter, Bias, LoRA, saved
from prompt_jax.merge import merged
from prompt_jax.session import Session
from prompt_jax.t5 import pretrained
from prompt_jax.training.loop import Interruption
from prompt_jax.training.state import abstract
from tests import models, tiny
from tests.inserts.model_test import ONE, random

LORA = functools.partial(LoRA, rank=2, alpha=3.0)
FOLDS = {
  'ia3': [('.*/(key|value|hidden)', IA3)],
  'lora': [('.*/(query|value)', LORA)],
  'lora everywhere': [('.*/(query|key|value|out|wi.*|wo)', LORA)],
  'both': [('.*/(value|hidden|wo)', IA3), ('.*/(value|wo)', LORA)],
  'twice': [('.*/hidden', IA3), ('.*/(hidden|out)', IA3)],
}
CLOSE = dict(rtol=0, atol=1e-5)  # float32; logits are of order 1


@pytest.mark.parametrize(
  'table, source, gated',
  [
    ('ia3', 'encoder', True),
    ('lora', 'plain', True),
    ('lora everywhere', 'plain', True),
    ('both', 'plain', False),
    ('twice', 'plain', True),
  ],
)
def test_logits_stay(table, source, gated):
  activations = ('gelu', 'linear') if gated else ('relu',)
  model = models.make(
    source, inserts=FOLDS[table], mlp_activations=activations, **ONE
  )
  flat = random(models.initial(model), size=0.2)
  result, plain = merged(model, flat), model.clone(inserts=())
  assert params.difference(abstract(plain)[0], result) == []
  rows = models.batch()
  wanted = np.asarray(models.logits(model, flat, rows))
  got = np.asarray(models.logits(plain, result, rows))
  np.testing.assert_allclose(got, wanted, **CLOSE)
  bare = {path: flat[path] for path in result}
  unmerged = np.asarray(models.logits(plain, bare, rows))
  assert np.abs(unmerged - wanted).max() > 1e-2


def test_decoder_only_logits_stay():
  inserts = FOLDS['ia3'] + FOLDS['lora']
  model = models.make(
    inserts=inserts, num_encoder_layers=0, num_decoder_layers=1
  )
  flat, rows = random(models.initial(model), size=0.2), models.batch()
  result, plain = merged(model, flat), model.clone(inserts=())
  wanted = np.asarray(models.logits(model, flat, rows))
  got = np.asarray(models.logits(plain, result, rows))
  np.testing.assert_allclose(got, wanted, **CLOSE)


def test_only_the_kernels_of_sites_change():
  model = models.make(inserts=FOLDS['ia3'], **ONE)
  flat = random(models.initial(model))
  changed = {p for p, x in merged(model, flat).items() if x is not flat[p]}
  assert changed == {
    path
    for path in flat
    if path.endswith(('key/kernel', 'value/kernel', 'wo/kernel'))
  }


def test_a_bfloat16_base_is_merged_in_float32():
  model = models.make(inserts=FOLDS['lora'], activation_dtype='bfloat16', **ONE)
  flat = random(models.initial(model))
  own = saved.own(flat)
  low = {p: x.astype(jnp.bfloat16) for p, x in flat.items() if p not in own}
  at = 'encoder/layers_0/attention/query'
  a, b = (np.asarray(own[f'{at}_insert/lora_{x}']) for x in 'ab')
  kernel = np.asarray(low[f'{at}/kernel'].astype(np.float32))
  got = merged(model, low | own)[f'{at}/kernel']
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, kernel + 3.0 / 2 * a @ b, **CLOSE)


class Bent(nn.Module):
  """Says that it is linear, and is not."""

  linear = True

  @nn.compact
  def __call__(self, y, x):
    del x
    scale = self.param('scale', nn.initializers.ones, ())
    return y * jnp.abs(y) * scale


@pytest.mark.parametrize(
  'table, said',
  [
    ((), 'no inserts to merge; expected a method such as'),
    ([('.*/wo', Adapter)], 'Adapter at encoder/layers_0/mlp/wo cannot be'),
    ([('.*/out', Bias)], 'Bias at .*/out cannot be merged.*T5 has no biases'),
    ([('.*/hidden', LoRA)], r'LoRA at .*on hidden, feature by feature \(IA3'),
    ([('.*/query', Bent)], 'logits that are .* of the largest apart'),
  ],
)
def test_what_cannot_be_merged(table, said):
  model = models.make(inserts=table, **ONE)
  with pytest.raises(UserError, match=said):
    merged(model, models.initial(model))


def _trained(tmp_path, method, **settings):
  """The `train.Run` of a finished run of a method."""
  from prompt_jax import train

  files, where = tmp_path / 'files', tmp_path / 'run'
  tiny.write_files(files)
  settings |= {'method': method, 'INITIAL_CHECKPOINT_PATH': tiny.base()}
  settings |= {'PROMPT_LENGTH': None, 'LEARNING_RATE': 0.1}
  train.train(tiny.configured(files, where, **settings))
  return tiny.configured(files, where, **settings)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')


@pytest.mark.slow
def test_export_of_a_run(tmp_path):
  run = _trained(tmp_path, 'lora')
  export = functools.partial(export_run, run, step=None, dtype='float32')
  (path,) = export(str(tmp_path / 'parts'), whole=False)
  assert path == str(tmp_path / 'parts' / 'inserts.npz')
  session = Session(run, Interruption())
  state, _ = session.restore()
  _, arrays, about = saved.load(path)
  assert about['step'] == 4 and about['base_digest'] == session.digest
  assert arrays.keys() == state.trainable.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, state.trainable[name], name)
  with pytest.raises(UserError, match='Use --merge for inserts'):
    export(str(tmp_path / 'whole'), whole=True)
  (folder,) = export(str(tmp_path / 'merged'), whole=False, merge=True)
  whole, rows = tuned.load(folder, vocabulary='bytes'), tiny.batch()
  flat = params.merge(state.trainable, session.frozen)
  wanted = np.asarray(models.logits(run.model, flat, rows))
  got = np.asarray(models.logits(whole.model, whole.flat, rows))
  np.testing.assert_allclose(got, wanted, **CLOSE)
  base = pretrained.read(tiny.base(), list(whole.flat))
  bare = np.asarray(models.logits(whole.model, base, rows))
  assert np.abs(bare - wanted).max() > 1e-2


@pytest.mark.slow
def test_the_base_is_exported_as_it_is_stored(tmp_path):
  run = _trained(tmp_path, 'ia3', ACTIVATION_DTYPE='bfloat16')
  out = str(tmp_path / 'out')
  assert export_run(run, out, None, False, 'float32', merge=True) == [out]
  paths = list(pretrained.inspect(tiny.base())[1])
  stored, got = (pretrained.read(each, paths) for each in (tiny.base(), out))
  folded = ('key/kernel', 'value/kernel', 'wo/kernel')
  for path in paths:
    same = np.array_equal(got[path], stored[path])
    assert same != path.endswith(folded), path
    assert got[path].dtype == np.float32
