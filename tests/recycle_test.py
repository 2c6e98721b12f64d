"""Recycling: the three maps, the pieces they are fitted on, the files."""

import json
import re

import jax
import numpy as np
import pytest

from prompt_jax import cli, recycle, tuned
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.training import state as states
from tests import tiny

V, P, H, G = 263, 5, 11, 7  # G: width of the target, that of tiny.base()
LINEAR = pytest.mark.parametrize('method', ['v2v-lin', 'lin-comb'])


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tables():
  """Embeddings of both bases, and a prompt of the first."""
  return normal(V, H), normal(V, G, seed=1), normal(P, H, seed=2)


def write_base(folder, table, **others):
  weights = {'token_embedder/embedding': table, **others}
  pretrained.save(str(folder), weights, {})
  return str(folder)


@pytest.fixture
def source(tmp_path):
  return write_base(tmp_path / 'source', normal(V, H))


@pytest.fixture
def prompt(tmp_path, source):
  """A saved prompt of the source."""
  path = tmp_path / 'task.npy'
  sidecar = {'task': 'task', 'stack': 'encoder', 'depth': 1}
  sidecar['base_digest'] = recycle.digest(source)
  saved.save(path, normal(P, H, seed=2), sidecar)
  return path


def recycled(prompt, source, target, **settings):
  """(what is printed, the array, its sidecar)."""
  output = prompt.with_name('new.npy')
  settings = {'pieces': recycle.Pieces(199, 31), **settings}
  lines = recycle.write_recycled(prompt, source, target, output, **settings)
  return lines, *saved.load(output)


@LINEAR
@pytest.mark.parametrize('widths', [(7, 11), (11, 7)])
def test_a_linear_image_is_recovered(method, widths):
  table, prompt = normal(V, widths[0]), normal(P, widths[0], seed=2)
  image = normal(*widths, seed=3)
  found, error = recycle.RECYCLERS[method](table, table @ image, prompt)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, prompt @ image, rtol=1e-5, atol=1e-5)
  assert error < 1e-5


def test_v2v_lin_solves_the_normal_equations():
  source, target, prompt = tables()
  found, error = recycle.v2v_lin(source, target, prompt)
  known = source.astype(float)
  weights = np.linalg.inv(known.T @ known) @ known.T @ target
  np.testing.assert_allclose(found, prompt @ weights, rtol=1e-5, atol=1e-6)
  rest = np.linalg.norm(known @ weights - target) / np.linalg.norm(target)
  np.testing.assert_allclose(error, rest, rtol=1e-6)


def test_lin_comb_takes_the_shortest_combination():
  source, target, prompt = tables()
  found, error = recycle.lin_comb(source, target, prompt)
  known = source.astype(float)
  shares = prompt @ np.linalg.inv(known.T @ known) @ known.T  # [P,V]
  np.testing.assert_allclose(shares @ known, prompt, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found, shares @ target, rtol=1e-5, atol=1e-6)
  assert error < 1e-6


def test_fewer_pieces_than_widths():
  """A row that is one embedding becomes the embedding of that piece."""
  source, target = normal(3, H), normal(3, G, seed=1)
  for method in 'v2v-lin', 'lin-comb':
    found, _ = recycle.RECYCLERS[method](source, target, source[1:])
    np.testing.assert_allclose(found, target[1:], rtol=1e-5, atol=1e-5)


def test_the_network():
  source, target, prompt = tables()
  found, error = recycle.v2v_nn(source, target, prompt, seed=3, epochs=0)
  flat = recycle.Network(4 * G, G).init(jax.random.key(3), source[:1])
  one, two = flat['params']['Dense_0'], flat['params']['Dense_1']
  inner = np.maximum(prompt @ one['kernel'] + one['bias'][None], 0)
  wanted = inner @ two['kernel'] + np.asarray(two['bias'])[None]
  assert inner.shape == (P, 4 * G)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  after, less = recycle.v2v_nn(source, target, prompt, 3, 17, batch_size=V)
  assert less < error and not np.allclose(after, found)


def test_the_network_is_decided_by_its_seed():
  run = lambda seed: recycle.v2v_nn(*tables(), seed, epochs=1, batch_size=V)[0]
  runs = [run(seed) for seed in (5, 5, 7)]
  assert runs[0].tobytes() == runs[1].tobytes()
  assert not np.allclose(runs[0], runs[2])


def test_the_digest_is_that_of_the_sidecars_of_runs():
  model = tiny.model(None)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  places = dict.fromkeys(states.base_shapes(model), here)
  _, digest = states.load_base(model, tiny.base(), (), places)
  assert recycle.digest(tiny.base()) == digest


@pytest.mark.parametrize('method', recycle.RECYCLERS)
def test_a_recycled_prompt_is_one_of_the_target(method, prompt, source):
  lines, array, sidecar = recycled(prompt, source, tiny.base(), how=method)
  assert array.shape == (P, G) and lines[-1] == str(prompt.with_name('new.npy'))
  assert lines[0].startswith(f'{method} on 199 pieces: relative error')
  assert sidecar['base_digest'] == recycle.digest(tiny.base())
  assert (sidecar['task'], sidecar['stack']) == ('task', 'encoder')
  assert sidecar['source']['base_digest'] == recycle.digest(source)
  tuned.load(tiny.base(), str(prompt.with_name('new.npy')), vocabulary='bytes')


def test_where_a_prompt_stands_is_kept(prompt, source):
  array, sidecar = saved.load(prompt)
  place = {'where': 'after_eos', 'attention': ['prompt_to_prompt']}
  saved.save(prompt, array, {**sidecar, **place})
  _, _, found = recycled(prompt, source, tiny.base())
  assert {key: found[key] for key in place} == place


def test_the_pieces_that_are_fitted_on(prompt, source, tmp_path):
  target = normal(V, G, seed=1)
  base = write_base(tmp_path / 'target', target)
  _, found, _ = recycled(prompt, source, base, how='v2v-lin')
  rows = slice(31, 230)
  wanted, _ = recycle.v2v_lin(normal(V, H)[rows], target[rows], np.load(prompt))
  np.testing.assert_array_equal(found, wanted)
  ids = list(range(100, 140))
  words = tmp_path / 'words.json'
  words.write_text(json.dumps({str(i): f'word {i}' for i in ids}))
  pieces = recycle.Pieces(29, 3, words)
  _, found, sidecar = recycled(
    prompt, source, base, how='lin-comb', pieces=pieces
  )
  rows = ids[3:32]
  wanted, _ = recycle.lin_comb(
    normal(V, H)[rows], target[rows], np.load(prompt)
  )
  np.testing.assert_array_equal(found, wanted)
  assert sidecar['source']['words'] == str(words)


def test_another_base_is_refused(prompt, source, tmp_path):
  other = write_base(tmp_path / 'other', normal(V, H, seed=9))
  text = f'base_digest {recycle.digest(source)}, here it is .*allow_other_base'
  with pytest.raises(UserError, match=text):
    recycled(prompt, other, tiny.base())
  recycled(prompt, other, tiny.base(), how='v2v-lin', allow_other_base=True)


def test_another_width_is_refused(prompt, tmp_path):
  other = write_base(tmp_path / 'other', normal(V, 13))
  text = rf'is a prompt \[{P}, {H}\]; expected \[{P}, 13\], as wide as the'
  with pytest.raises(UserError, match=text):
    recycled(prompt, other, tiny.base())


def test_another_vocabulary_is_refused(prompt, source, tmp_path):
  other = write_base(tmp_path / 'other', normal(V + 6, G))
  with pytest.raises(
    UserError, match='has 263 embeddings and .* 269; expected'
  ):
    recycled(prompt, source, other)
  same = write_base(tmp_path / 'same', normal(V, G))
  for folder, text in ('source', b'one'), ('same', b'two'):
    (tmp_path / folder / 'spiece.model').write_bytes(text)
  with pytest.raises(UserError, match='vocabularies differ: their digests are'):
    recycled(prompt, source, same)
  (tmp_path / 'same' / 'spiece.model').write_bytes(b'one')
  _, _, sidecar = recycled(prompt, source, same, how='v2v-lin')
  assert len(sidecar['vocabulary_digest']) == 16


def test_a_prompt_for_several_layers_is_refused(prompt, source):
  saved.save(prompt, np.load(prompt), {'depth': 5})
  with pytest.raises(UserError, match='for 5 layers; expected one that stands'):
    recycled(prompt, source, tiny.base())


def test_pieces_that_are_not_there(prompt, source, tmp_path):
  run = lambda *pieces: recycled(
    prompt, source, tiny.base(), pieces=recycle.Pieces(*pieces)
  )
  text = 'the vocabulary has 263. Give a smaller --num_words and --word_offset'
  with pytest.raises(UserError, match=re.escape(text)):
    run(4000, 1000)
  with pytest.raises(
    UserError, match='--num_words=0 after --word_offset=3 are'
  ):
    run(0, 3)
  words = tmp_path / 'words.json'
  with pytest.raises(UserError, match='cannot be read as a list of words'):
    run(2, 0, words)
  words.write_text('["positive"]')
  with pytest.raises(UserError, match='Expected a JSON object {id: word}'):
    run(2, 0, words)
  words.write_text('{"3": "a", "263": "b"}')
  with pytest.raises(UserError, match='has the id 263; expected ids below 263'):
    run(1, 0, words)


def test_the_prompt_is_not_written_over(prompt, source):
  before = prompt.read_bytes()
  with pytest.raises(UserError, match='task.npy is the prompt that is read'):
    recycle.write_recycled(prompt, source, tiny.base(), prompt)
  assert prompt.read_bytes() == before


def test_a_recycling_that_there_is_not(prompt, source):
  with pytest.raises(UserError, match="'v2v'; .* Nearest: 'v2v-nn'"):
    recycled(prompt, source, tiny.base(), how='v2v')


def test_the_command(prompt, source, tmp_path, capsys):
  output = tmp_path / 'new.npy'
  command = [
    *('recycle', str(prompt), f'--source={source}', f'--output={output}'),
    *(f'--target={tiny.base()}', '--method=v2v-lin', '--word_offset=31'),
  ]
  assert cli.main([*command, '--num_words=199']) == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0].startswith('v2v-lin on 199 pieces: relative error')
  assert said[1] == str(output) and np.load(output).shape == (P, G)
  assert cli.main(command) == 2
  assert '4000 pieces after the first 31' in capsys.readouterr().err
