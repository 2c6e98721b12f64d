"""The study of progressive training: its runs, what is kept, its table."""

import pytest

from launch import fpt_study
from tests.launch import small


@pytest.fixture
def study(films, tmp_path):
  given = ('--model', small.model(), '--tasks', small.TASK, '--steps', '10')
  given += ('--seeds', '0', '1', '--runs', 'LD', 'CR', '--out', str(tmp_path))
  return fpt_study.Study(fpt_study.arguments(given))


def made(cell):
  share = {'plain': 0.0, 'LD': 0.3, 'CR': 0.4}[cell['run']]
  score = 80.0 - 10 * share + cell['seed'] - 3 * cell['stopped']
  return {
    'test': score,
    'made': 10,
    'folder': 'here',
    'seconds': 5.0,
    'saved': {'products': share, 'flops': share, 'seconds': None},
    'curve': [[1, 50.0], [10, score]],
  }


def test_every_run_has_a_plain_one_as_dear(study):
  cells = study.cells()
  assert len(cells) == 2 * (3 + 2)
  stopped = [cell for cell in cells if cell['stopped']]
  assert {cell['run'] for cell in stopped} == {'LD', 'CR'}
  for number, cell in enumerate(cells):
    if cell['stopped']:  # its figure is there by then
      assert {**cell, 'stopped': False} in cells[:number]


def test_plain_runs_at_a_constant_rate_are_one(study):
  cells = study.cells()[:5]  # of one seed
  steps = [c['steps'] - c['stopped'] for c in cells]
  of = lambda: {study.folder(*each) for each in zip(cells, steps, strict=True)}
  assert len(of()) == 2 + 1
  # one that is longer than what is to be compared is no start of it
  (study.folder(cells[-1], 10) / 'prompts' / '10').mkdir(parents=True)
  assert len(of()) == 2 + 2 + 1
  for cell in cells:
    cell['schedule'] = 'linear'
  assert len(of()) == 5


def test_what_is_there_is_not_made_again(study, monkeypatch):
  monkeypatch.setattr(study, 'trained', made)
  rows = study.carry_out()
  (dear,) = [c for c in study.cells() if c['stopped'] and c['run'] == 'CR'][:1]
  assert study._as_dear(dear) == 6  # of 10 steps, 40 % saved
  other = fpt_study.Study(study.args)
  monkeypatch.setattr(other, 'trained', None)
  assert other.carry_out() == rows


@pytest.mark.slow
def test_runs_in_truth(films, tmp_path, monkeypatch):
  # so little of a base this small is in its MLPs that none would be saved
  monkeypatch.setattr(fpt_study.Study, '_as_dear', lambda *_: 6)
  given = ('--model', small.model(), '--tasks', small.TASK, '--steps', '8')
  given += ('--seeds', '0', '--runs', 'CR', '--looks', '2', '--shown', '1')
  given += ('--length', '3', '--batch_size', '8', '--out', str(tmp_path))
  study = fpt_study.Study(fpt_study.arguments(given))
  part, dear, plain = rows = study.carry_out()
  assert part['saved']['products'] > 0 == plain['saved']['products']
  assert dear['made'] == 6 and plain['made'] == 8
  assert dear['folder'] == plain['folder'] != part['folder']
  assert plain['seconds'] > dear['seconds'] > 0
  assert [step for step, _ in plain['curve']] == [4, 6, 8]
  assert f'{small.TASK}, CR' in study.show(rows).read_text()


def test_the_table(study):
  rows = [{**cell, **made(cell)} for cell in study.cells()]
  found = fpt_study.table(rows)
  plain, ld, cr = found['rows']
  assert plain == [f'{small.TASK}, plain', '80.5 ± 0.7', *'-----', '5.0 ± 0.0']
  assert ld[2:4] == ['-3.0 ± 0.0', '+3.0 ± 0.0']
  assert cr[4:7] == ['40.0 ± 0.0', '40.0 ± 0.0', '-']
  drawn = fpt_study.curves(rows)
  assert list(next(iter(drawn.values()))['lines']) == ['plain', 'LD', 'CR']


def test_a_difference_has_its_standard_error():
  assert fpt_study.difference([3.0, 5.0], [2.0, 2.0]) == '+2.0 ± 1.0'
  assert fpt_study.difference([3.0], [4.0]) == '-1.0'
