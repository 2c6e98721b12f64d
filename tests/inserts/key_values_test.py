"""Keys and values ahead: they are what tokens at their place would leave."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.inserts import KeyValues, saved
from prompt_jax.t5.sites import rows_ahead
from prompt_jax.training.state import abstract
from tests import models

U, AHEAD = 7, 3  # decoder positions, of them taken for rows
DECODER = [('decoder/.*/self_attention/ahead', functools.partial(KeyValues, 3))]
MIXED = [
  ('encoder/layers_1/.*', functools.partial(KeyValues, 5)),
  ('decoder/.*', functools.partial(KeyValues, 2)),
  ('decoder/layers_0/.*', functools.partial(KeyValues, 3)),
]


def _decoded(model, flat, rows, count):
  """Logits [R,count,V] step by step, and the cache."""
  tree = {'params': params.unflatten(flat)}
  encoded = model.apply(tree, rows['encoder_input_tokens'], method='encode')
  start = functools.partial(model.apply, method='start', mutable=['cache'])
  _, kept = start(tree, encoded, U)
  step = jax.jit(
    functools.partial(model.apply, method='step', mutable=['cache']),
    static_argnums=2,
  )
  found = []
  for i in range(count):
    tokens = rows['decoder_input_tokens'][:, i : i + 1]
    logits, kept = step({**tree, **kept}, tokens, U)
    found.append(logits)
  return jnp.stack(found, axis=1), kept['cache']


def test_rows_are_what_tokens_before_would_leave():
  rows = {name: x[:1] for name, x in models.batch().items()}
  plain = models.make()
  flat = models.initial(plain)
  whole = models.logits(plain, flat, rows)
  _, cache = _decoded(plain, flat, rows, AHEAD)
  own = {}
  for path, x in params.flatten(cache).items():
    layer, _, name = path.rpartition('/self_attention/cached_')
    if layer:  # [1,N,U,K] -> [P,N K]
      place = f'{layer}/self_attention/ahead_insert/{name}s'
      own[place] = x[0, :, :AHEAD].swapaxes(0, 1).reshape(AHEAD, -1)
  model = models.make(inserts=DECODER)
  assert own.keys() == saved.own(abstract(model)[0]).keys()
  later = {
    name: x[:, AHEAD:] if name.startswith('decoder') else x
    for name, x in rows.items()
  }
  got = models.logits(model, {**flat, **own}, later)
  np.testing.assert_allclose(got, whole[:, AHEAD:], rtol=0, atol=1e-5)
  bare = models.logits(plain, flat, later)
  assert np.abs(np.asarray(bare) - whole[:, AHEAD:]).max() > 1e-2


def test_each_attention_reads_its_rows():
  model, rows = models.make(inserts=MIXED), models.batch()
  flat, run = models.initial(model), models.compiled(model)
  first = np.asarray(run(flat, rows))
  own = saved.own(flat)
  # 1 encoder layer, 3 x 2 in the decoder, 2 more in its first: keys, values
  assert len(own) == 2 * (1 + 6 + 2)
  for path in own:
    moved = np.asarray(run(flat | {path: flat[path][::-1] * 3}, rows)) - first
    assert np.abs(moved).max() > 1e-4, path
  # every query sees all rows, whatever it may see of the input
  lengths = [x.shape[0] for x in own.values()]
  assert sorted({*lengths}) == [2, 3, 5]
  assert rows_ahead(MIXED, 'encoder', 2) == 5
  assert rows_ahead(MIXED, 'decoder', 3) == 5  # 2 and 3 in the first layer


def test_rows_of_one_length_count_where_others_are_longer():
  """A layer beside one with more rows has the positions next to its keys."""
  rows = models.batch()
  near = ('decoder/layers_1/.*', functools.partial(KeyValues, 2))
  far = ('decoder/layers_2/self.*', functools.partial(KeyValues, 5))
  one, two = models.make(inserts=[near]), models.make(inserts=[near, far])
  flat = models.initial(two)
  wide = {p: jnp.zeros_like(x) for p, x in flat.items() if 'layers_2' in p}
  out = 'decoder/layers_2/self_attention/out/kernel'
  flat |= {out: jnp.zeros_like(wide[out])}  # what the layer attends to is lost
  shapes = abstract(one)[0]
  alone = models.logits(one, {path: flat[path] for path in shapes}, rows)
  both = models.logits(two, flat, rows)
  np.testing.assert_allclose(both, alone, rtol=0, atol=1e-5)


def test_padding_and_other_rows_do_not_matter():
  model = models.make(inserts=MIXED)
  flat, run = models.initial(model), models.compiled(model)
  real = models.batch()['decoder_target_tokens'] > 0
  first = np.asarray(run(flat, models.batch()))[real]
  more = models.batch(extra=3)
  longer = np.asarray(run(flat, more))[more['decoder_target_tokens'] > 0]
  np.testing.assert_allclose(longer, first, rtol=0, atol=1e-5)


def test_step_by_step_it_is_the_same():
  model, rows = models.make('both', inserts=MIXED), models.batch()
  flat = models.initial(model)
  whole = models.logits(model, flat, rows)
  got, _ = _decoded(model, flat, rows, U)
  real = np.asarray(rows['decoder_target_tokens'] > 0)
  np.testing.assert_allclose(
    np.asarray(got)[real], np.asarray(whole)[real], rtol=0, atol=1e-5
  )


def test_where_there_is_no_place():
  model = models.make(inserts=DECODER, num_encoder_layers=0)
  with pytest.raises(UserError, match='matches none of the 0'):
    abstract(model)
  model = models.make(inserts=[('.*/ahead', functools.partial(KeyValues, 0))])
  with pytest.raises(UserError, match='length=0; expected at least 1'):
    abstract(model)
