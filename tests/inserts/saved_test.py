"""Saved inserts: what is written is what is read, or an error says why."""

import functools
import json

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.inserts import IA3, Adapter, LoRA, saved
from prompt_jax.training.state import abstract
from tests import models
from tests.inserts.model_test import ONE, random

TABLE = [
  ('.*/(query|value)', functools.partial(LoRA, rank=2, alpha=5.0)),
  ('.*/(value|hidden)', IA3),  # the second on value
  ('decoder/.*/wo', functools.partial(Adapter, 3, 'relu')),
]


@pytest.fixture
def model():
  return models.make(inserts=TABLE, **ONE)


@pytest.fixture
def written(model, tmp_path):
  flat = random(models.initial(model))
  path = saved.save(tmp_path / 'new', TABLE, flat, {'step': 7})
  return path, flat


def test_a_round_trip(model, written):
  path, flat = written
  inserts, arrays, about = saved.load(path)
  assert about['step'] == 7
  assert arrays.keys() == saved.own(flat).keys()
  assert 'encoder/layers_0/attention/value_insert_1/scale' in arrays
  assert about['parameters'] == sum(x.size for x in arrays.values())
  for name, array in arrays.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, flat[name], name)
  again = models.make(inserts=inserts, **ONE)
  shapes = abstract(again)[0]
  saved.check_fit(shapes, arrays, path)
  assert {p: x.shape for p, x in shapes.items()} == {
    p: x.shape for p, x in flat.items()
  }
  rows = models.batch()
  np.testing.assert_array_equal(
    models.logits(again, flat | arrays, rows), models.logits(model, flat, rows)
  )


def test_what_the_sidecar_says(written):
  about = json.loads(open(written[0].replace('.npz', '.json')).read())
  assert about['inserts'] == saved.described(TABLE)
  assert about['inserts'] == [
    ['.*/(query|value)', {'type': 'LoRA', 'rank': 2, 'alpha': 5.0}],
    ['.*/(value|hidden)', {'type': 'IA3'}],
    [
      'decoder/.*/wo',
      {'type': 'Adapter', 'bottleneck': 3, 'activation': 'relu'},
    ],
  ]


def test_nothing_else_is_left_in_the_folder(written, tmp_path):
  names = sorted(path.name for path in (tmp_path / 'new').iterdir())
  assert names == ['inserts.json', 'inserts.npz']


def test_a_model_of_another_shape(written):
  path, _ = written
  inserts, arrays, _ = saved.load(path)
  wider = models.make(inserts=inserts, d_model=17, **ONE)
  with pytest.raises(
    UserError, match='does not fit this model(.|\n)*lora_a is'
  ):
    saved.check_fit(abstract(wider)[0], arrays, path)


def test_nothing_to_save(tmp_path):
  flat = models.initial(models.make(**ONE))
  with pytest.raises(UserError, match='nothing to put into'):
    saved.save(tmp_path, (), flat, {})


def test_what_is_not_finite(model, tmp_path):
  flat = dict(models.initial(model))
  name = 'encoder/layers_0/mlp/hidden_insert/scale'
  flat[name] = flat[name].at[2].set(np.nan)
  with pytest.raises(UserError, match='hidden_insert/scale .*no finite'):
    saved.save(tmp_path / 'new', TABLE, flat, {})
  assert not (tmp_path / 'new').exists()


def _rewritten(path, **changes):
  sidecar = path.replace('.npz', '.json')
  about = json.loads(open(sidecar).read()) | changes
  with open(sidecar, 'w') as file:
    json.dump(about, file)
  return path


def test_files_that_cannot_be_read(written, tmp_path):
  path, _ = written
  with pytest.raises(UserError, match='nowhere.npz does not exist'):
    saved.load(tmp_path / 'nowhere.npz')
  torn = tmp_path / 'torn.npz'
  torn.write_bytes(open(path, 'rb').read()[:100])
  with pytest.raises(UserError, match='torn.npz is not a readable .npz'):
    saved.load(torn)
  plain = tmp_path / 'plain.npz'
  with open(plain, 'wb') as file:
    np.save(file, np.zeros(3, np.float32))
  with pytest.raises(UserError, match='plain.npz is not a readable .npz'):
    saved.load(plain)
  alone = tmp_path / 'alone.npz'
  alone.write_bytes(open(path, 'rb').read())
  with pytest.raises(UserError, match='alone.json does not tell which'):
    saved.load(alone)


@pytest.mark.parametrize(
  'how, said',
  [
    ({'type': 'Mine'}, "type 'Mine'; expected one of IA3, "),
    ({'type': 'LoRA', 'rank': 2}, r"by \['rank'\]; expected \['alpha', 'rank'"),
  ],
)
def test_inserts_that_are_not_known(written, how, said):
  path = _rewritten(written[0], inserts=[['.*/query', how]])
  with pytest.raises(UserError, match=said):
    saved.load(path)
