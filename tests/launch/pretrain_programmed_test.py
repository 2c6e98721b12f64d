"""`Programmed`: learned rows, rows made of a prototype and a word, starts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.pretrain import programmed
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.t5.config import T5Config
from prompt_jax.training import state as states
from tests import tiny
from tests.launch import mixtures

P, H, S = mixtures.PROTOTYPES, mixtures.WIDTH, mixtures.LEARNED


@pytest.fixture
def source(tmp_path):
  return programmed.Programmed(P, mixtures.write(tmp_path))


@pytest.fixture
def parameters(source):
  """Of random numbers, or the words would tell nothing of their rows."""
  embeds = jnp.zeros((1, 2, H))
  made = source.init(jax.random.key(0), jnp.zeros(1, jnp.int32), embeds, None)
  rng = np.random.default_rng(23)
  return {
    name: rng.normal(size=x.shape).astype(np.float32)
    for name, x in nn.meta.unbox(made)['params'].items()
  }


def _rows(source, parameters, ids):
  ids = jnp.array(ids, jnp.int32)
  embeds = jnp.zeros((len(ids), 2, H))
  return np.asarray(source.apply({'params': parameters}, ids, embeds, None))


def test_the_first_tasks_are_learned(source, parameters):
  got = _rows(source, parameters, range(S))
  np.testing.assert_array_equal(got, parameters['prompts'])


def test_the_others_are_made(source, parameters):
  held, programs = mixtures.arrays(), list(range(mixtures.PROGRAMS))
  got = _rows(source, parameters, [S + m for m in programs])
  for m in programs:
    a = held['bank'][held['program_bank'][m]].astype(np.float32)  # [P,D]
    pairs = int(held['program_part'][m] == 4)
    want = a @ parameters['kernels'][pairs]
    want += parameters['words'][held['program_word'][m]]
    np.testing.assert_allclose(got[m], want, atol=1e-5)
  assert {int(p) for p in held['program_part']} == {0, 1, 2, 3, 4}


def test_learned_and_made_rows_in_one_batch(source, parameters):
  both = _rows(source, parameters, [S + 5, 1, S])
  np.testing.assert_array_equal(both[1], parameters['prompts'][1])
  apart = _rows(source, parameters, [S + 5, S])
  np.testing.assert_allclose(both[[0, 2]], apart, atol=1e-6)


def test_where_words_and_kernels_start(source, tmp_path):
  held = mixtures.arrays()
  table = np.load(tmp_path / f'embedding_{H}.npy')
  kernels, words = programmed.started(source.file, H)
  np.testing.assert_array_equal(words, table[held['answers']])
  assert kernels.shape == (2, mixtures.SPACE, H)
  for pairs, kernel in enumerate(kernels):
    own = np.flatnonzero((held['part_of'] == 4) == bool(pairs))
    spans = [held['offsets'][r : r + 2] for r in held['part_row'][own]]
    # without the end of sequence
    means = [table[held['values'][a : b - 1]].mean(axis=0) for a, b in spans]
    z = held['z'][own].astype(np.float64)
    want = np.linalg.pinv(z) @ (np.array(means) - np.mean(means, axis=0))
    want /= (z @ want).std()
    np.testing.assert_allclose(kernel, want, atol=1e-4)


def test_names_of_the_parameters(source):
  config = T5Config(**{**tiny.SIZES, 'vocab_size': mixtures.ROWS})
  factory = lambda: programmed.Programmed(P, source.file)
  model = PromptEncoderDecoder(config, encoder_prompt=factory)
  shapes, _ = states.abstract(model)
  found = {
    path.removeprefix('encoder/prompt/'): x.shape
    for path, x in shapes.items()
    if path.startswith('encoder/prompt/')
  }
  assert found == {
    'prompts': (S, P, H),
    'kernels': (2, mixtures.SPACE, H),
    'words': (mixtures.WORDS, H),
  }


def test_what_a_user_can_get_wrong(source, tmp_path):
  source.check(H)
  with pytest.raises(UserError, match='embedding_11.npy is not there; .*width'):
    source.check(11)
  with pytest.raises(UserError, match='tasks of 3 prototypes; .*length=20'):
    programmed.Programmed(file=source.file).check(H)
  with pytest.raises(UserError, match='lost.npz is not there'):
    programmed.Programmed(P, str(tmp_path / 'lost.npz')).check(H)
