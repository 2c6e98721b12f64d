"""The transfer study: its cells, what is kept, what it says."""

import json
import math

import numpy as np
import pytest

from launch import transfer_found, transfer_study
from prompt_jax.transfer import matrix
from tests.launch import small

_OTHERS = ['gloss_pos', 'word_relation']


def arguments(out, *more):
  given = ('--models', small.model(), '--tasks', small.TASK, *_OTHERS)
  return transfer_study.arguments([*given, '--out', str(out), *more])


@pytest.fixture
def study(films, tmp_path):
  return transfer_study.Study(
    arguments(tmp_path, '--seeds', '0', '1', '--targets', small.TASK)
  )


SPEED = {
  'from': 'b',
  'alike': 0.7,
  'scratch_best': 80.0,
  'scratch_steps': 40,
  'started_best': 82.0,
  'started_steps': 20,
  'comparable_steps': 10,
  'convergence': 2.0,
  'comparable': 4.0,
  'curve': [[10, 80.0], [20, 82.0]],
  'scratch': [[10, 60.0], [20, 70.0], [40, 80.0]],
}
RHO = {'with_self': 0.5, 'without_self': 0.4, 'pooled': math.nan}
MASKED = {
  'ratio': 0.2,
  'own': 60.0,
  'random': [70.0, 80.0],
  'other': {'b': 65.0},
}
KINDS = {'projected': 70.0, 'own': 80.0, 'random': 50.0}
MADE = {
  'prompt': {'accuracy': 80.0, 'curve': []},
  'transfer': {
    'by_type': {'same type': 0.9, 'different type': 0.6, 'random': 0.5},
    'spearman': {'ON': RHO},
  },
  'masked': {'masked': {'a': {'none': 80.0, 'masked': [MASKED]}}},
  'speed': SPEED,
  'projector': {
    'scores': {'a': KINDS, 'b': {**KINDS, 'projected': 60.0}},
    'trained': ['a'],
    'diagnostic': {
      'direction_ratio': 1e-5,
      'variance_ratio': 0.5,
      'gap_shuffled': 3.0,
    },
  },
}


def faked(study, monkeypatch, calls):
  for name in ('prompt', 'transferred', 'masked', 'projected', 'started'):

    def make(cell):
      calls.append(cell['what'])
      return MADE[cell['what']]

    monkeypatch.setattr(study, name, make)


def test_what_is_there_is_not_made_again(study, monkeypatch):
  calls = []  # one model: no projector
  faked(study, monkeypatch, calls)
  rows = study.carry_out()
  each = [*(3 * ['prompt']), 'transfer', 'masked', 'speed', 'speed']
  assert calls == 2 * each
  again = []
  other = transfer_study.Study(study.args)
  faked(other, monkeypatch, again)
  # JSON has no tuples, and a nan is not itself
  assert json.dumps(other.carry_out()) == json.dumps(rows) and again == []


def test_a_second_model_is_projected_to(films, tmp_path, monkeypatch):
  args = arguments(tmp_path, '--seeds', '0', '--targets', small.TASK)
  study = transfer_study.Study(args)
  monkeypatch.setattr(study.args, 'models', [small.model(), 'mini'])
  cells = [cell for _, cell in study.cells()]
  variants = [c['variant'] for c in cells if c['what'] == 'projector']
  assert variants == list(transfer_study.VARIANTS)
  assert {c['source'] for c in cells if 'source' in c} == {small.model()}
  starts = [c['start'] for c in cells if c['what'] == 'speed']
  assert starts == 2 * ['most', 'least'] + [*transfer_study.STARTS]
  names = {tuple(sorted(c.items(), key=str)).__repr__() for c in cells}
  assert len(names) == len(cells)  # no two cells are one


def test_tables_and_curves():
  about = {'model': 'gin/mini.gin', 'seed': 0, 'ratios': [0.2], 'task': 'a'}
  rows = [
    {**about, 'what': what, 'start': 'most', **made}
    for what, made in MADE.items()
  ]
  rows[-1] |= {'source': 'x', 'variant': 'task'}
  tables = transfer_found.tables([*rows, {**rows[1], 'seed': 1}])
  first = lambda name: tables[name]['rows'][0]
  assert first('Zero-shot transfer') == [
    'mini', '0.900 ± 0.000', '0.600 ± 0.000', '0.500 ± 0.000',
  ]  # fmt: skip
  assert first('Indicators and transfer')[0] == 'mini, ON'
  assert first('Indicators and transfer')[3] == '-'
  assert first('Masked neurons') == ['mini, 0.2 masked', '20.0', '5.0', '15.0']
  assert first('Projectors') == [
    'x to mini, task', '70.0', '80.0', '60.0', '80.0', '50.0', '1.0e-05',
    '0.50', '3.00',
  ]  # fmt: skip
  assert first('Starts')[-4:] == ['10', '1 of 1', '4.00', '2.00']
  assert '| mini, 0.2 masked | 20.0 |' in transfer_found.text(tables)
  ((_, drawn),) = transfer_found.curves(rows).items()
  assert drawn['lines']['most alike'] == [[10, 80.0], [20, 82.0]]
  assert drawn['lines']['from scratch'][-1] == [40, 80.0]


def test_a_mean_of_matrices():
  each = [
    matrix.Matrix(('a',), ('a', 'b'), np.asarray([row]))
    for row in ([80.0, 60.0], [90.0, 40.0])
  ]
  mean = transfer_found.mean_matrix(each)
  np.testing.assert_array_equal(mean.scores, [[85.0, 50.0]])


def test_similarities(tmp_path):
  file = tmp_path / 'indicators.csv'
  file.write_text('one,other,ON\na,a,1\na,b,0.7\nb,b,1\nc,a,0.2\nc,b,0.5\n')
  assert transfer_study.similarities(file, 'a', 'ON') == {'b': 0.7, 'c': 0.2}


def test_too_few_tasks(capsys):
  with pytest.raises(SystemExit):
    transfer_study.arguments(['--tasks', 'gloss_pos', 'bible_section'])
  assert 'expected at least 3' in capsys.readouterr().err


def test_the_usual_tasks_are_shipped():
  args = transfer_study.arguments([])
  assert len(args.tasks) >= 8 and args.targets == list(transfer_study.TARGETS)
  assert not {*args.projector_tasks} & {*args.targets}
  assert {*args.projector_tasks} | {*args.targets} == {*args.tasks}
