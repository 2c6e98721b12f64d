"""The released arrays of Su et al. 2022, recomputed."""

import csv
import json

import numpy as np
import pytest

from launch.reproduce import transferability
from prompt_jax.errors import UserError
from prompt_jax.transfer import correlation, indicators, matrix, shelf
from tests.shared import shared

# t5-base, t5-small: mean relative score, from the authors' own tables
BY_TYPE = {'t5_base': (0.826, 0.498), 't5_small': (0.791, 0.480)}


def test_transfer_works_within_a_type():
  matrices = transferability.by_model(shared('transfer_data'))
  for model, (same, different) in BY_TYPE.items():
    found = matrix.by_type(matrices[model], transferability.TYPES)
    np.testing.assert_allclose(found['same type'], same, atol=5e-4)
    np.testing.assert_allclose(found['different type'], different, atol=5e-4)
    assert 'random' in found


def tie_breaks(scores, prompts, name):
  """The least and the largest pooled rho, ties of pairs broken at will."""
  names = [n for n in scores.square().tasks if n in prompts.names]
  alike = indicators.between(prompts.only(names).prompts)[name]
  square = scores.square(names).scores
  relative = square / np.diag(square)[:, None]
  # below any difference of two pairs, in favour of the order or against it
  off = np.unique(alike[~np.eye(len(alike), dtype=bool)])
  little = np.diff(off).min() / 4 * np.sign(relative - relative.T)
  return tuple(
    correlation.correlations(alike + sign * little, square)['pooled']
    for sign in (-1, 1)
  )


def test_spearman_of_the_shipped_prompts():
  folder = shared('transfer_data')
  model = 't5_small'
  prompts = shelf.read(folder / f'prompts_{model}.npz')
  scores = matrix.read(folder / f'transfer_{model}.csv')
  found = transferability.of_model(scores, prompts)
  with (folder / 'spearman_embedding_indicators.csv').open() as file:
    rows = [r for r in csv.DictReader(file) if r['tasks'] == 'shipped']
  rows = {r['indicator']: r for r in rows if r['model'] == model}
  assert rows.keys() == found.keys()
  for name, row in rows.items():
    one, two, three = (float(x) for x in list(row.values())[4:])
    rho = found[name]
    np.testing.assert_allclose(rho['with_self'], one, atol=1e-4)
    np.testing.assert_allclose(rho['without_self'], two, atol=1e-4)
    if name.endswith('average'):
      # each pair stands there twice: a tie, which the file breaks by the
      # rounding of its averages, one way for one pair, one for another
      low, high = tie_breaks(scores, prompts, name)
      assert low - 1e-4 <= three <= high + 1e-4
      assert low <= rho['pooled'] <= high
    atol = 5e-4 if name.endswith('average') else 1e-4
    np.testing.assert_allclose(rho['pooled'], three, atol=atol)
  assert transferability.compared(folder, model, prompts) < 1e-5


def test_overlap_of_the_largest_model():
  path = shared('transfer_data') / 'neurons_t5_xxl_last3_f16.npz'
  found = transferability.neurons(path)
  by_step = lambda kind: {r['step']: r['ON'] for r in found[kind]}
  final, gate = by_step('final'), by_step('wi0')
  for step, want, half in (
    (1000, 0.6876, 0.6547),
    (2000, 0.5719, 0.3803),
    (17000, 0.5406, 0.3650),
  ):
    np.testing.assert_allclose(final[step], want, atol=1e-4)
    np.testing.assert_allclose(gate[step], half, atol=1e-4)


def test_projected_prompts_beside_their_own():
  folder = shared('transfer_data')
  matrices = transferability.by_model(folder)
  found = transferability.cross_model(folder, matrices)
  with (folder / 'cross_model_zero_shot.csv').open() as file:
    rows = [r for r in csv.DictReader(file) if r['target_model'] == 'Roberta']
  (qqp,) = [
    float(r['acc'])
    for r in rows
    if (r['source_model'], r['task']) == ('T5', 'QQP')
  ]
  table = matrices['roberta_base']
  (mrpc,) = [
    float(r['acc'])
    for r in rows
    if (r['source_model'], r['task']) == ('T5', 'MRPC')
  ]
  want = qqp / table.score('QQP', 'QQP') + mrpc / table.score('MRPC', 'MRPC')
  got = found['T5 -> Roberta']['paraphrase']
  assert got['tasks'] == 2
  assert got['projected'] == pytest.approx(want / 2)
  sides = [
    table.score(t, 'random') / table.score(t, t) for t in ('QQP', 'MRPC')
  ]
  assert got['random'] == pytest.approx(sum(sides) / 2)
  assert np.isnan(found['Roberta -> RobertaLarge']['paraphrase']['random'])


def test_a_small_folder(tmp_path, capsys):
  rng = np.random.default_rng(0)
  names = ['IMDB', 'SST2', 'laptop', 'MNLI', 'snli']
  prompts = {n: rng.normal(size=(3, 5)).astype(np.float32) for n in names}
  np.savez(tmp_path / 'prompts_tiny.npz', **prompts)
  scores = matrix.Matrix((*names,), (*names,), 0.1 + rng.random((5, 5)))
  scores.write(tmp_path / 'transfer_tiny.csv')
  out = tmp_path / 'out'
  transferability.main(['--data', str(tmp_path), '--out', str(out)])
  assert '| tiny | C_average |' in capsys.readouterr().out
  found = json.loads((out / 'found.json').read_text())
  assert set(found['spearman']) == {'tiny'}
  assert 'prompts_tiny, sentiment' in found['collapse']


def test_a_folder_without_matrices(tmp_path, monkeypatch):
  monkeypatch.delenv(transferability.SETTING, raising=False)
  with pytest.raises(UserError, match='no transfer_<model>.csv in .no folder'):
    transferability.data_folder(None)
  monkeypatch.setenv(transferability.SETTING, str(tmp_path))
  with pytest.raises(UserError, match='Give --data=FOLDER'):
    transferability.data_folder(None)
