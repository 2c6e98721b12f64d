"""Initial values: what each closure gives and what it refuses."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts import initializers, saved

P, H, V = 7, 11, 53
KEY = jax.random.PRNGKey(3)
TABLE = np.random.default_rng(0).normal(size=(V, H)).astype(np.float32)
IDS = {'good': [5], 'not bad': [17, 2, 41], 'good not bad': [5, 17, 2, 41]}


def _encode(text):
  return IDS.get(text, [])


def _tail(init, length):
  """The rows from `length` on, drawn by `init` alone."""
  return np.asarray(init(KEY, (P, H)))[length:]


@pytest.mark.parametrize(
  'init, low, high',
  [
    (initializers.random_uniform(), 0.0, 0.5),
    (initializers.uniform_released(), 0.0, 0.5),
    (initializers.uniform_paper(), -0.5, 0.5),
    (initializers.random_uniform(-3.0, 2.0), -3.0, 2.0),
  ],
)
def test_uniform_fills_its_interval(init, low, high):
  drawn = init(KEY, (131, 137))
  assert drawn.dtype == jnp.float32
  assert low <= drawn.min() and drawn.max() < high
  width = high - low
  # 17,947 numbers: the mean is off by 0.0022 widths (one sigma)
  assert float(drawn.mean()) == pytest.approx(low + width / 2, abs=0.01 * width)
  assert float(drawn.max() - drawn.min()) > 0.999 * width


def test_an_empty_interval_is_refused():
  with pytest.raises(UserError, match='low=0.5, high=0.5; expected low < high'):
    initializers.random_uniform(0.5)


@pytest.mark.parametrize('population', [None, P, 13, V])
def test_sampled_rows_are_distinct_and_among_the_first(population):
  init = initializers.from_sampled_vocab(TABLE, population)
  drawn = np.asarray(init(KEY, (P, H)))
  rows = [int(np.flatnonzero((TABLE == row).all(1))[0]) for row in drawn]
  assert len(set(rows)) == P
  assert max(rows) < (population or V)


def test_sampled_rows_under_a_trace_are_the_same():
  init = initializers.from_sampled_vocab(lambda: TABLE, 13)
  traced = jax.jit(lambda key: init(key, (P, H)))(KEY)
  np.testing.assert_array_equal(traced, init(KEY, (P, H)))


def test_a_prompt_longer_than_the_population_repeats_rows():
  init = initializers.from_sampled_vocab(TABLE, 3)
  with pytest.warns(UserWarning, match='7 positions .* population of 3'):
    drawn = init(KEY, (P, H))
  assert all((row == TABLE[:3]).all(1).any() for row in np.asarray(drawn))


def test_a_population_larger_than_the_vocabulary_is_all_of_it():
  init = initializers.from_sampled_vocab(TABLE, V + 1)
  with pytest.warns(UserWarning, match='population=54 is more than the 53'):
    drawn = init(KEY, (P, H))
  whole = initializers.from_sampled_vocab(TABLE)(KEY, (P, H))
  np.testing.assert_array_equal(drawn, whole)


@pytest.mark.parametrize('population', [0, -5])
def test_an_empty_population_is_refused(population):
  with pytest.raises(UserError, match=f'population={population}; expected at'):
    initializers.from_sampled_vocab(TABLE, population)


@pytest.mark.parametrize('table', [TABLE, lambda: TABLE, jnp.asarray(TABLE)])
def test_class_labels_are_means_of_their_pieces(table):
  init = initializers.from_class_labels(table, _encode, ['not bad', 'good'])
  drawn = init(KEY, (P, H))
  assert drawn.dtype == jnp.float32
  np.testing.assert_allclose(drawn[0], TABLE[[17, 2, 41]].mean(0), rtol=1e-6)
  np.testing.assert_array_equal(drawn[1], TABLE[5])
  np.testing.assert_array_equal(
    drawn[2:], _tail(initializers.uniform_released(), 2)
  )


def test_class_labels_are_the_same_under_a_trace():
  init = initializers.from_class_labels(TABLE, _encode, ['not bad'])
  traced = jax.jit(lambda key: init(key, (P, H)))(KEY)
  np.testing.assert_array_equal(traced[0], init(KEY, (P, H))[0])


def test_labels_keep_their_order_and_may_repeat():
  labels = ['good', 'good', 'not bad'] + ['good'] * (P - 3)
  drawn = initializers.from_class_labels(TABLE, _encode, labels)(KEY, (P, H))
  same = (np.asarray(drawn) == TABLE[5]).all(1)
  assert same.tolist() == [label == 'good' for label in labels]


def test_a_string_gives_one_row_per_piece_and_the_fallback_the_rest():
  fallback = initializers.from_sampled_vocab(TABLE, 13)
  init = initializers.from_string(TABLE, _encode, 'good not bad', fallback)
  drawn = init(KEY, (P, H))
  np.testing.assert_array_equal(drawn[:4], TABLE[[5, 17, 2, 41]])
  np.testing.assert_array_equal(drawn[4:], _tail(fallback, 4))


def test_what_does_not_fit_the_prompt_is_refused():
  labels = initializers.from_class_labels(TABLE, _encode, ['good'] * 3)
  with pytest.raises(UserError, match='3 labels .* at most 2. .*LENGTH=3'):
    labels(KEY, (2, H))
  text = initializers.from_string(TABLE, _encode, 'good not bad')
  with pytest.raises(UserError, match='A text of 4 pieces .* PROMPT_LENGTH=4'):
    text(KEY, (3, H))


@pytest.mark.parametrize('labels', ['good', [], ()])
def test_labels_have_to_be_a_list(labels):
  text = re.escape(f'labels={labels!r}; expected a list of strings')
  with pytest.raises(UserError, match=text):
    initializers.from_class_labels(TABLE, _encode, labels)


def test_a_text_without_pieces_is_refused():
  for init in (
    initializers.from_class_labels(TABLE, _encode, ['good', '']),
    initializers.from_string(TABLE, _encode, ''),
  ):
    with pytest.raises(UserError, match="The text '' encodes to no piece"):
      init(KEY, (P, H))


def test_ids_beyond_the_embeddings_are_refused():
  init = initializers.from_string(TABLE, lambda text: [5, V], 'x')
  with pytest.raises(
    UserError, match='encodes to id 53; expected ids below 53'
  ):
    init(KEY, (P, H))


@pytest.mark.parametrize(
  'init',
  [
    initializers.from_sampled_vocab(TABLE),
    initializers.from_class_labels(TABLE, _encode, ['good']),
    initializers.from_string(TABLE, _encode, 'good'),
  ],
)
def test_embeddings_of_another_width_are_refused(init):
  text = r'are \[53, 11\]; expected \[V, 13\]'
  with pytest.raises(UserError, match=text):
    init(KEY, (P, 13))


def _write(folder, *lengths):
  paths = [folder / f'{n}.npy' for n in range(len(lengths))]
  arrays = [np.full((p, H), n + 1, 'f4') for n, p in enumerate(lengths)]
  for path, array in zip(paths, arrays, strict=True):
    saved.save(path, array, {})
  return paths, arrays


def test_from_file_is_the_saved_prompt(tmp_path):
  (path,), (array,) = _write(tmp_path, P)
  init = initializers.from_file(path)
  np.testing.assert_array_equal(init(KEY, (P, H)), array)
  with pytest.raises(UserError, match='set PROMPT_LENGTH=7'):
    init(KEY, (5, H))


def test_files_are_read_when_the_prompt_is_initialised(tmp_path):
  init = initializers.from_file(tmp_path / '0.npy')
  _write(tmp_path, P)
  assert init(KEY, (P, H)).shape == (P, H)


def test_several_files_are_averaged(tmp_path):
  paths, _ = _write(tmp_path, P, P)
  drawn = initializers.from_files(paths)(KEY, (P, H))
  np.testing.assert_array_equal(drawn, np.full((P, H), 1.5))
  assert drawn.dtype == jnp.float32


def test_several_files_are_concatenated_in_order(tmp_path):
  paths, arrays = _write(tmp_path, 5, 2)
  init = initializers.from_files(paths, 'concatenate')
  np.testing.assert_array_equal(init(KEY, (P, H)), np.concatenate(arrays))


def test_files_that_do_not_fit_are_refused(tmp_path):
  paths, _ = _write(tmp_path, 5, 2)
  with pytest.raises(UserError, match='It is 2 positions long, not 5'):
    initializers.from_files(paths)(KEY, (5, H))
  init = initializers.from_files(paths, 'concatenate')
  with pytest.raises(UserError, match=r'\[5, 2\] positions long, 7 together'):
    init(KEY, (P + 1, H))


def test_from_files_says_what_it_expects():
  with pytest.raises(UserError, match="how='mean'; expected .*'average'"):
    initializers.from_files(['a.npy'], 'mean')
  for paths in ('a.npy', []):
    text = re.escape(f'paths={paths!r}; expected a list')
    with pytest.raises(UserError, match=text):
      initializers.from_files(paths)


def test_from_array_checks_the_shape():
  array = TABLE[:P]
  init = initializers.from_array(array)
  np.testing.assert_array_equal(init(KEY, (P, H)), array)
  text = r'array \[7, 11\]; expected \[5, 11\]'
  with pytest.raises(UserError, match=text):
    init(KEY, (5, H))


def test_embeddings_from_a_file(tmp_path):
  path = tmp_path / 'table.npy'
  np.save(path, TABLE)
  init = initializers.from_sampled_vocab(initializers.embedding_file(path), 13)
  expected = initializers.from_sampled_vocab(TABLE, 13)(KEY, (P, H))
  np.testing.assert_array_equal(init(KEY, (P, H)), expected)
  with pytest.raises(UserError, match='tabel.npy does not exist.*table.npy'):
    initializers.embedding_file(tmp_path / 'tabel.npy')()


def test_embeddings_from_a_checkpoint(monkeypatch):
  from prompt_jax.t5 import pretrained

  asked = []

  def read(path, keys):
    asked.append((path, keys))
    return {keys[0]: TABLE.astype(jnp.bfloat16)}

  monkeypatch.setattr(pretrained, 'read', read)
  table = initializers.checkpoint_embedding('base')
  init = initializers.from_class_labels(table, _encode, ['good'])
  assert asked == []
  drawn = init(KEY, (P, H))
  assert asked == [('base', ['token_embedder/embedding'])]
  assert drawn.dtype == jnp.float32
  np.testing.assert_array_equal(drawn[0], TABLE[5].astype(jnp.bfloat16))


def test_import_brings_no_reader_of_files():
  code = (
    'import sys, prompt_jax.prompts.initializers;'
    'slow = {"tensorflow", "seqio", "sentencepiece", "tensorstore"};'
    'sys.exit(str(slow & sys.modules.keys()) if slow & sys.modules.keys()'
    ' else 0)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
