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
  width = json.loads((folder / 'config.json').read_text())['d_model']
  file = prompt_file(tmp_path / 'a.npy', None, width)
  model = tuned.load(
    str(folder), str(file), vocabulary='bytes', lengths=LENGTHS, batch_size=2
  )
  said = model.generate(['1 + 2', '3'])  # bytes that the fixture has rows for
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
