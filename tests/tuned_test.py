"""A base with a prompt from Python, checked to fit."""

import json
import shutil

import numpy as np
import pytest

from prompt_jax import params, tuned
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from tests import tiny
from tests.shared import fixtures

LENGTHS = {'inputs': 13, 'targets': 5}


def load(prompt=None, **settings):
  settings = {'vocabulary': 'bytes', 'lengths': LENGTHS} | settings
  prompt = None if prompt is None else str(prompt)
  return tuned.load(tiny.base(), prompt, batch_size=3, **settings)


def prompt_file(path, digest, width=7):
  rows = np.random.default_rng(5).normal(size=(2, width))
  saved.save(str(path), rows, {'base_digest': digest})
  return path


@pytest.fixture(scope='module')
def digest():
  """Of the base, from the file itself."""
  keys = list(pretrained.inspect(tiny.base())[1])
  return params.digest(pretrained.read(tiny.base(), keys))


@pytest.mark.slow
def test_ranks_and_generates(tmp_path, digest):
  model = load(prompt_file(tmp_path / 'a.npy', digest))
  texts = [f'film {i}' for i in range(5)]  # a batch of three, and of two
  scores = model.scores(texts, ['no', 'yes', 'maybe'])
  assert scores.shape == (5, 3) and (scores < 0).all()
  np.testing.assert_allclose(
    model.scores(texts[3:], ['no', 'yes', 'maybe']), scores[3:], rtol=1e-5
  )
  best = [['no', 'yes', 'maybe'][i] for i in scores.argmax(axis=1)]
  assert model.rank(texts, ['no', 'yes', 'maybe']) == best
  said = model.generate(texts)
  assert len(said) == 5 and all(isinstance(text, str) for text in said)
  with pytest.warns(UserWarning, match='1 of 2 inputs were cut at 13 tokens'):
    model.generate(['a' * 12, 'a' * 13])
  with pytest.raises(UserError, match='no labels to rank'):
    model.scores(texts, [])
  assert model.scores([], ['no']).shape == (0, 1)


@pytest.mark.slow
def test_a_hugging_face_folder(tmp_path):
  folder = fixtures('t5_logits') / 'hf_t5_1_1'
  config = json.loads((folder / 'config.json').read_text())
  file = prompt_file(tmp_path / 'a.npy', None, config['d_model'])
  model = tuned.load(
    str(folder), str(file), vocabulary='bytes', lengths=LENGTHS, batch_size=2
  )
  last = chr(config['vocab_size'] - 4)  # the byte of the last row
  said = model.generate([3 * last, last])
  assert len(said) == 2 and all(isinstance(text, str) for text in said)


def test_a_prompt_of_another_base_is_refused(tmp_path, digest):
  file = prompt_file(tmp_path / 'a.npy', 'f' * 16)
  with pytest.raises(UserError) as caught:
    load(file)
  assert f'base_digest {"f" * 16}, here it is {digest}' in str(caught.value)
  model = load(file, allow_other_base=True)
  np.testing.assert_array_equal(
    model.flat['encoder/prompt/prompt'], np.load(file)
  )


def test_a_prompt_of_another_vocabulary_is_refused(tmp_path, digest):
  file = prompt_file(tmp_path / 'a.npy', digest)
  sidecar = {'base_digest': digest, 'vocabulary_digest': '0' * 16}
  file.with_suffix('.json').write_text(json.dumps(sidecar))
  with pytest.raises(UserError, match=f'vocabulary_digest {"0" * 16}'):
    load(file)


def test_a_prompt_of_another_width_is_refused(tmp_path, digest):
  file = prompt_file(tmp_path / 'a.npy', digest, width=11)
  with pytest.raises(UserError, match='It is 11 wide and the model 7'):
    load(file)


def test_a_released_prompt_has_no_sidecar(tmp_path):
  file = tmp_path / 'a.npy'
  np.save(file, np.ones((2, 7), np.float32))
  assert load(file).flat['encoder/prompt/prompt'].shape == (2, 7)


def test_a_base_without_a_prompt_and_without_shapes(tmp_path):
  assert 'encoder/prompt/prompt' not in load().flat
  bare = tmp_path / 'bare'
  shutil.copytree(tiny.base(), bare)
  (bare / 'config.json').unlink()
  with pytest.raises(UserError, match='has no config.json that tells'):
    tuned.load(str(bare))


LABELS = {'a': ['no', 'yes'], 'b': ['odd', 'fair', 'goo'], 'c': ['no', 'x']}
TASKS = ['c', 'a', 'b', 'a', 'c', 'b', 'a']


@pytest.fixture(scope='module')
def bank(tmp_path_factory):
  """{task: file} of three prompts that differ a lot."""
  folder, rng = tmp_path_factory.mktemp('bank'), np.random.default_rng(61)
  files = {task: str(folder / f'{task}.npy') for task in LABELS}
  for file in files.values():
    np.save(file, 3 * rng.normal(size=(2, 7)).astype(np.float32))
  return files


def load_bank(bank, **settings):
  settings = {'vocabulary': 'bytes', 'lengths': LENGTHS} | settings
  return tuned.load(tiny.base(), bank, batch_size=3, **settings)


@pytest.mark.slow
def test_mixed_tasks_equal_one_at_a_time(bank):
  mixed = load_bank(bank)
  assert mixed.flat['encoder/prompt/prompts'].shape == (3, 2, 7)
  texts = [f'film {i}' for i in range(len(TASKS))]
  scores = mixed.scores(texts, LABELS, TASKS)
  ranked = mixed.rank(texts, LABELS, TASKS)
  shared = mixed.scores(texts, ['no', 'yes'], tasks=TASKS)
  said = mixed.generate(texts, tasks=TASKS)
  for task, labels in LABELS.items():
    rows = [i for i, name in enumerate(TASKS) if name == task]
    own = [texts[i] for i in rows]
    alone = load(bank[task])
    wanted = alone.scores(own, labels)
    found = np.stack([scores[i] for i in rows])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
      shared[rows], alone.scores(own, ['no', 'yes']), rtol=1e-6, atol=1e-6
    )
    assert [ranked[i] for i in rows] == alone.rank(own, labels)
    assert [said[i] for i in rows] == alone.generate(own)
  # the prompts do matter
  swapped = mixed.scores(texts, ['no', 'yes'], tasks=TASKS[::-1])
  assert np.abs(swapped - shared)[:3].max() > 1e-3
  assert mixed.scores([], LABELS, []) == []


def test_tasks_that_do_not_fit(bank):
  mixed = load_bank(bank)
  with pytest.raises(UserError, match='tasks is None for 1 texts; expected'):
    mixed.generate(['film'])
  with pytest.raises(UserError, match='for 2 texts; expected the name of a'):
    mixed.scores(['film', 'x'], ['no'], tasks=['a'])
  with pytest.raises(UserError, match="'d' is a task without a prompt; "):
    mixed.rank(['film'], ['no'], tasks=['d'])
  with pytest.raises(UserError, match="none for 'b'; expected the labels of"):
    mixed.rank(['film'], {'a': ['no']}, tasks=['b'])
  alone = load(bank['a'])
  with pytest.raises(UserError, match='has one prompt for all texts; expected'):
    alone.rank(['film'], ['no'], tasks=['a'])
  with pytest.raises(UserError, match='expected a list of labels'):
    alone.rank(['film'], LABELS)


def test_a_bank_of_another_base_is_refused(bank, tmp_path):
  odd = prompt_file(tmp_path / 'odd.npy', 'f' * 16)
  with pytest.raises(UserError, match='odd.npy was saved with base_digest fff'):
    load_bank({**bank, 'd': str(odd)})
  load_bank({**bank, 'd': str(odd)}, allow_other_base=True)
