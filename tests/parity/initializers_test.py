"""Initial values against arrays of the released code, and its prompts.

Exact where the released code draws the same way as ours; where it drops what
does not fit into the prompt, ours raises.
"""

import hashlib
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts import initializers, saved
from prompt_jax.tasks import features
from tests.shared import fixtures

# Rows that the word table has: T5's vocabulary, padded to 251 x 128.
ROWS = 32128
# The released code fills with this where no fallback is named.
RELEASED_FALLBACK = initializers.random_uniform(0.0, 0.01)


def _read():
  folder = fixtures('prompt_tuning')
  table = json.loads((folder / 'initializers.json').read_text())
  encode = features.encoder(str(folder / 't5_sentencepiece.model'))
  return np.load(folder / 'initializers.npz'), table, encode


def _words(arrays):
  """E[i,j] = sin((i+1) f_j), the table of the label and string cases."""
  angle = (np.arange(ROWS)[:, None] + 1) * arrays['table_freq']
  words = np.sin(angle).astype(np.float32)
  np.testing.assert_array_equal(words[:7], arrays['table_first_rows'])
  np.testing.assert_array_equal(words[-1], arrays['table_last_row'])
  return words


def _fallback(name, words):
  return {
    'none': RELEASED_FALLBACK,
    'sample5000': initializers.from_sampled_vocab(words, 5000),
    'uniform0.5': None,
    'zeros': lambda rng, shape: np.zeros(shape, np.float32),
  }[name]


@pytest.mark.parametrize('scale', ['0.5', '0.01'])
def test_uniform(scale):
  arrays, _, _ = _read()
  expected = arrays[f'uniform_{scale}']
  init = initializers.random_uniform(0.0, float(scale))
  np.testing.assert_array_equal(init(arrays['key'], expected.shape), expected)


@pytest.mark.parametrize('scale', ['0.5', '0.01'])
def test_uniform_as_a_parameter(scale):
  arrays, _, _ = _read()
  expected = arrays[f'module_uniform_{scale}']

  class Table(nn.Module):
    @nn.compact
    def __call__(self):
      init = initializers.random_uniform(0.0, float(scale))
      return self.param('prompt', init, expected.shape)

  found = Table().init(arrays['key'])['params']['prompt']
  np.testing.assert_array_equal(found, expected)


def test_released_uniform_is_the_default():
  arrays, _, _ = _read()
  expected = arrays['uniform_0.5']
  for init in initializers.random_uniform(), initializers.uniform_released():
    np.testing.assert_array_equal(init(arrays['key'], expected.shape), expected)


@pytest.mark.parametrize('case', ['all', 'pop', 'too_big', 'replace'])
def test_sampled_vocab(case):
  arrays, _, _ = _read()
  table, expected = arrays['embeddings'], arrays[f'sample_{case}']
  rows = arrays[f'sample_{case}_rows']
  np.testing.assert_array_equal(table[rows], expected)
  population = {
    'all': lambda: None,
    'pop': lambda: _population(arrays),
    'too_big': lambda: len(table) + 10,
    'replace': lambda: len(expected) - 2,
  }[case]()
  init = initializers.from_sampled_vocab(table, population)
  if case in ('too_big', 'replace'):
    text = 'is more than' if case == 'too_big' else 'with replacement'
    with pytest.warns(UserWarning, match=text):
      found = init(arrays['key'], expected.shape)
  else:
    found = init(arrays['key'], expected.shape)
  np.testing.assert_array_equal(found, expected)


def _population(arrays):
  """The population of 'sample_pop', on record nowhere: what draws its rows."""
  rows, size = arrays['sample_pop_rows'], len(arrays['embeddings'])
  for population in range(max(rows.max() + 1, len(rows)), size + 1):
    drawn = jax.random.choice(
      arrays['key'], population, (len(rows),), replace=False
    )
    if np.array_equal(drawn, rows):
      return population
  raise AssertionError(f'no population up to {size} draws {rows}')


def test_array():
  arrays, _, _ = _read()
  expected = arrays['from_array']
  init = initializers.from_array(arrays['array'])
  np.testing.assert_array_equal(init(arrays['key'], expected.shape), expected)


def test_pieces():
  _, table, encode = _read()
  assert [encode(label) for label in table['labels']] == table['label_ids']
  assert encode(table['string']) == table['string_ids']


@pytest.mark.parametrize(
  'fallback', ['none', 'sample5000', 'uniform0.5', 'zeros']
)
@pytest.mark.parametrize('length', ['short', 'exact', 'long'])
def test_class_labels(length, fallback):
  arrays, table, encode = _read()
  words = _words(arrays)
  expected = arrays[f'labels_{length}_{fallback}']
  init = initializers.from_class_labels(
    words, encode, table['labels'], _fallback(fallback, words)
  )
  _compare(init, arrays, expected, len(table['labels']), 'labels')


@pytest.mark.parametrize('fallback', ['none', 'sample5000', 'zeros'])
@pytest.mark.parametrize('length', ['short', 'exact', 'long'])
def test_string(length, fallback):
  arrays, table, encode = _read()
  words = _words(arrays)
  expected = arrays[f'string_{length}_{fallback}']
  init = initializers.from_string(
    words, encode, table['string'], _fallback(fallback, words)
  )
  _compare(init, arrays, expected, len(table['string_ids']), 'pieces')


def _compare(init, arrays, expected, rows, what):
  """Equal where all rows fit; an error where the released code drops some."""
  if len(expected) < rows:
    with pytest.raises(UserError, match=f'{rows} {what}.* at most'):
      init(arrays['key_labels'], expected.shape)
  else:
    found = init(arrays['key_labels'], expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_fallback_alone():
  arrays, _, _ = _read()
  expected = arrays['sample5000_long']
  init = initializers.from_sampled_vocab(_words(arrays), 5000)
  found = init(arrays['key_labels'], expected.shape)
  np.testing.assert_array_equal(found, expected)


def test_calls_that_the_released_code_refuses():
  arrays, table, encode = _read()
  key, embeddings = arrays['key'], arrays['embeddings']
  length, width = arrays['array'].shape
  wide = (length, width + 1)
  with pytest.raises(UserError, match='from_array holds'):
    initializers.from_array(arrays['array'])(key, wide)
  with pytest.raises(UserError, match=f'{width}.*expected .*{width + 1}'):
    initializers.from_sampled_vocab(embeddings)(key, wide)
  with pytest.raises(UserError, match='population=0'):
    initializers.from_sampled_vocab(embeddings, 0)
  with pytest.raises(UserError, match=f'{width}.*expected .*{width + 1}'):
    initializers.from_class_labels(embeddings, encode, table['labels'][:1])(
      key, wide
    )


def _released():
  folder = fixtures('prompt_tuning') / 'released_prompts'
  if not folder.is_dir():
    return folder, None  # they belong to one set alone
  return folder, json.loads((folder / 'scores.json').read_text())


def test_released_prompts_load():
  folder, scores = _released()
  if scores is None:
    return
  assert scores['prompts']
  for name, facts in scores['prompts'].items():
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert digest == facts['sha256'], name
    array, sidecar = saved.load(folder / name, tuple(scores['shape']))
    assert sidecar is None
    assert list(array.shape) == scores['shape']
    assert array.dtype == scores['dtype']
    # three decimals are on record
    norm = np.linalg.norm(array, axis=1).mean()
    assert norm == pytest.approx(facts['mean_row_norm'], abs=1e-3), name
    assert array.std() == pytest.approx(facts['std'], abs=1e-3), name


def test_released_prompts_survive_a_round_trip(tmp_path):
  folder, scores = _released()
  if scores is None:
    folder, scores = tmp_path / 'saved', {'prompts': ['a.npy']}
    folder.mkdir()
    np.save(folder / 'a.npy', np.asarray(_read()[0]['uniform_0.5']))
  for name in scores['prompts']:
    array, _ = saved.load(folder / name)
    saved.save(tmp_path / name, array, {'task': name})
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    init = initializers.from_file(tmp_path / name)
    found = np.asarray(init(jax.random.PRNGKey(0), array.shape))
    assert found.tobytes() == array.tobytes()
