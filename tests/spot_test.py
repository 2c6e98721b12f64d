"""SPoT: similarities, ranking, the start and what its sidecar says."""

import itertools
import json
import re

import numpy as np
import pytest

from prompt_jax import cli, spot
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved

P, H = 5, 7
BASE = {'base': 'mini', 'base_digest': 'b1', 'vocabulary_digest': 'v1'}


def prompts(number, shape=(P, H), seed=0):
  """Random prompts float32[number,P,H], none of mean zero."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(number, *shape)).astype(np.float32) + 0.5


@pytest.fixture
def shelf(tmp_path):
  """A target and a folder of three prompts, nearer and nearer to it."""
  noise, axes = prompts(4) / 10, np.eye(H, dtype=np.float32)
  saved.save(tmp_path / 'target.npy', axes[0] + noise[3], BASE)
  for name, other, angle in zip('abc', noise, (1.2, 0.7, 0.2), strict=False):
    rows = np.cos(angle) * axes[0] + np.sin(angle) * axes[1] + other
    path = tmp_path / 'prompts' / f'{name}.npy'
    saved.save(path, rows, BASE | {'task': name})
  return tmp_path


def start(shelf, **settings):
  """(what is printed, the array, its sidecar) of a start."""
  output = shelf / 'start.npy'
  lines = spot.write_start(
    shelf / 'target.npy', shelf / 'prompts', output, **settings
  )
  return lines, *saved.load(output)


def names(ranked):
  return ''.join(source.path.stem for source in ranked)


def cosine(x, y):
  return x @ y / np.sqrt((x @ x) * (y @ y))


def test_tokens_is_the_mean_cosine_of_all_pairs():
  one, other = prompts(2).astype(float)
  pairs = [cosine(x, y) for x, y in itertools.product(one, other)]
  found = spot.similarity(one, other, 'tokens')
  np.testing.assert_allclose(found, sum(pairs) / P**2, rtol=1e-12)


def test_average_is_the_cosine_of_the_means():
  one, other = prompts(2).astype(float)
  wanted = cosine(one.sum(0) / P, other.sum(0) / P)
  found = spot.similarity(one, other, 'average')
  np.testing.assert_allclose(found, wanted, rtol=1e-12)
  np.testing.assert_allclose(spot.similarity(one, one, 'average'), 1)


@pytest.mark.parametrize('kind', spot.SIMILARITIES)
def test_order_and_size_do_not_matter(kind):
  one, other = prompts(2).astype(float)
  wanted = spot.similarity(one, other, kind)
  same = spot.similarity(3 * one[::-1], other[[2, 0, 1, 4, 3]], kind)
  np.testing.assert_allclose(same, wanted, rtol=1e-12)
  np.testing.assert_allclose(spot.similarity(other, one, kind), wanted)
  np.testing.assert_allclose(spot.similarity(one, -other, kind), -wanted)


@pytest.mark.parametrize('kind', spot.SIMILARITIES)
def test_the_most_similar_is_first(shelf, kind):
  target = shelf / 'target.npy'
  ranked = spot.rank(target, shelf / 'prompts', kind)
  assert names(ranked) == 'cba'
  for source in ranked:
    wanted = spot.similarity(np.load(target), np.load(source.path), kind)
    assert source.score == wanted


def test_the_target_is_not_compared_with_itself(shelf):
  array, sidecar = saved.load(shelf / 'target.npy')
  saved.save(shelf / 'prompts' / 'own.npy', array, sidecar)
  ranked = spot.rank(shelf / 'prompts' / 'own.npy', shelf / 'prompts')
  assert names(ranked) == 'cba'


def test_the_prompts_of_a_step_below_a_folder_of_runs(shelf):
  for name in 'abc':
    array, sidecar = saved.load(shelf / 'prompts' / f'{name}.npy')
    for step, rows in ((100, array), (300, array + 1)):
      path = shelf / 'runs' / name / 'prompts' / str(step) / f'{name}.npy'
      saved.save(path, rows, sidecar)
  ranked = spot.rank(shelf / 'target.npy', shelf / 'runs', step=100)
  assert names(ranked) == 'cba'
  assert {source.path.parent.name for source in ranked} == {'100'}
  with pytest.raises(UserError, match='no prompts/7/.*.npy in .*--step'):
    spot.rank(shelf / 'target.npy', shelf / 'runs', step=7)


def test_equal_scores_are_ordered_by_name(shelf):
  array, sidecar = saved.load(shelf / 'prompts' / 'c.npy')
  for name in 'ed':
    saved.save(shelf / 'prompts' / f'{name}.npy', array, sidecar)
  assert names(spot.rank(shelf / 'target.npy', shelf / 'prompts')) == 'cdeba'


def test_weights():
  scores = [0.6, 0.3, 0.1]
  np.testing.assert_array_equal(spot.weights(scores, 'best'), [1, 0, 0])
  np.testing.assert_allclose(spot.weights(scores, 'mean'), [1 / 3] * 3)
  halved = np.asarray(scores) / 2
  np.testing.assert_allclose(spot.weights(halved, 'weighted'), scores)


def test_best_is_the_first_prompt_bit_for_bit(shelf):
  _, array, _ = start(shelf)
  assert array.tobytes() == np.load(shelf / 'prompts' / 'c.npy').tobytes()


def test_weighted_start(shelf):
  lines, array, sidecar = start(shelf, top=2, combine='weighted')
  scores = [s['similarity'] for s in sidecar['sources']]
  b, c = (np.load(shelf / 'prompts' / f'{name}.npy') for name in 'bc')
  wanted = (scores[0] * c + scores[1] * b) / sum(scores)
  np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-7)
  assert lines[0] == 'rank  similarity  weight  prompt'
  share = scores[0] / sum(scores)
  file = str(shelf / 'prompts' / 'c.npy')
  assert lines[1] == f'   1      {scores[0]:.4f}  {share:.4f}  {file}'
  assert lines[3].split()[2] == '-'  # ranked, but not among the first two
  assert lines[4].startswith('best of 2: ')
  assert lines[5:] == [str(shelf / 'start.npy')]


def test_mean_start_and_its_sidecar(shelf):
  # more than there are is all of them
  _, array, sidecar = start(shelf, kind='average', top=11, combine='mean')
  arrays = [np.load(shelf / 'prompts' / f'{name}.npy') for name in 'abc']
  np.testing.assert_allclose(array, sum(arrays) / 3, rtol=1e-5, atol=1e-7)
  assert {sidecar[key] for key in BASE} == set(BASE.values())
  assert (sidecar['length'], sidecar['width']) == (P, H)
  assert (sidecar['similarity'], sidecar['combine']) == ('average', 'mean')
  assert [s['file'][-5:] for s in sidecar['sources']] == [
    *('c.npy', 'b.npy', 'a.npy')
  ]
  assert [round(s['weight'], 4) for s in sidecar['sources']] == [0.3333] * 3


def test_a_start_stands_where_its_prompts_stood(shelf):
  place = {'where': 'after_eos', 'attention': ['prompt_to_prompt']}
  for name in 'abc':
    path = shelf / 'prompts' / f'{name}.npy'
    array, sidecar = saved.load(path)
    saved.save(path, array, {**sidecar, **place})
  _, _, found = start(shelf, combine='mean', top=3)
  assert {key: found[key] for key in place} == place
  # one that stands elsewhere leaves it open
  saved.save(path, array, {**sidecar, 'where': 'prefix'})
  assert 'where' not in start(shelf, combine='mean', top=3)[2]


def test_a_start_of_another_base_names_no_base(shelf):
  array, sidecar = saved.load(shelf / 'prompts' / 'a.npy')
  other = sidecar | {'base_digest': 'b2'}
  saved.save(shelf / 'prompts' / 'a.npy', array, other)
  text = 'a.npy has base_digest b2 and .*target.npy has b1; .*allow_other_base'
  with pytest.raises(UserError, match=text):
    start(shelf)
  assert not (shelf / 'start.npy').exists()
  _, _, said = start(shelf, combine='mean', allow_other_base=True)
  assert 'base_digest' not in said and said['vocabulary_digest'] == 'v1'


def test_prompts_without_sidecar_are_compared(shelf):
  for path in shelf.rglob('*.json'):
    path.unlink()
  _, _, sidecar = start(shelf)
  assert 'base_digest' not in sidecar


@pytest.mark.parametrize('shape', [(P + 6, H), (P, H + 6)])
def test_another_shape_is_refused(shelf, shape):
  np.save(shelf / 'prompts' / 'd.npy', prompts(1, shape)[0])
  text = f'd.npy is a prompt {list(shape)}; expected [{P}, {H}]'
  with pytest.raises(UserError, match=re.escape(text)):
    start(shelf)


def test_another_place_is_refused_whatever_is_allowed(shelf):
  for extra in {'stack': 'decoder'}, {'depth': 3}:
    path = shelf / 'prompts' / 'd.npy'
    saved.save(path, prompts(1)[0], BASE | extra)
    (key,) = extra
    with pytest.raises(UserError, match=f'd.npy has {key} .*target.npy has'):
      start(shelf, allow_other_base=True)


def test_a_prompt_that_is_not_finite_is_refused(shelf):
  array = prompts(1)[0]
  array[2, 3] = np.nan
  np.save(shelf / 'prompts' / 'd.npy', array)
  with pytest.raises(UserError, match='1 values that are NaN or infinite'):
    start(shelf)


def test_a_prompt_without_a_cosine_is_refused(shelf):
  array = prompts(1)[0]
  array[2] = 0
  np.save(shelf / 'prompts' / 'd.npy', array)
  with pytest.raises(UserError, match=r'In .*d.npy a row is zero, .*=average'):
    start(shelf)
  start(shelf, kind='average')
  np.save(shelf / 'prompts' / 'd.npy', np.zeros((P, H), np.float32))
  with pytest.raises(UserError, match=r'd.npy the mean of the rows is zero'):
    start(shelf, kind='average')


def test_no_prompts(shelf):
  (shelf / 'empty').mkdir()
  with pytest.raises(UserError, match=r'no \*.npy in .*empty to compare'):
    spot.rank(shelf / 'target.npy', shelf / 'empty')
  with pytest.raises(UserError, match='nowhere is not a folder'):
    spot.rank(shelf / 'target.npy', shelf / 'nowhere')


def test_words_and_numbers_that_make_no_sense(shelf):
  with pytest.raises(UserError, match="'token'; .* Nearest: 'tokens'"):
    start(shelf, kind='token')
  with pytest.raises(UserError, match="'weight'; .* Nearest: 'weighted'"):
    start(shelf, combine='weight')
  with pytest.raises(UserError, match='--top=0 leaves no prompt'):
    start(shelf, top=0)
  with pytest.raises(UserError, match=r'cannot be weights; .*--top=1, '):
    spot.weights([0.5, 0.0, -0.2], 'weighted')
  with pytest.raises(UserError, match='positive. Give --combine=mean'):
    spot.weights([-0.2], 'weighted')


def test_no_prompt_that_was_read_is_written_over(shelf):
  path = shelf / 'prompts' / 'b.npy'
  before = path.read_bytes()
  with pytest.raises(UserError, match=r'b.npy is one of the prompts that are'):
    spot.write_start(shelf / 'target.npy', shelf / 'prompts', path)
  assert path.read_bytes() == before


def test_the_command(shelf, capsys):
  command = [
    *('spot', f'--target={shelf}/target.npy', f'--prompts={shelf}/prompts'),
    *('--similarity=average', '--top=2', '--combine=weighted'),
  ]
  assert cli.main([*command, f'--output={shelf}/start.npy']) == 0
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 6 and said[-1] == f'{shelf}/start.npy'
  first = [f'{shelf}/prompts/{name}.npy' for name in 'cb']
  assert said[-2] == f'best of 2: --gin.SWEEP_STARTS="{first}"'
  sidecar = json.loads((shelf / 'start.json').read_text())
  assert sidecar['similarity'] == 'average' and len(sidecar['sources']) == 2
  assert cli.main([*command, f'--output={shelf}/start.txt']) == 2
  assert 'a name that ends in .npy' in capsys.readouterr().err
