"""The comparison of methods: what is filled in, its cells, costs, table."""

import json

import pytest

from launch import blanks, compare, results
from prompt_jax.errors import UserError
from tests.launch import small


def _argv(out, *more):
  return [
    *('--model', small.model(), '--tasks', small.TASK, '--steps', '2'),
    *('--seeds', '0', '--batch_size', '16', '--length', '3', '--repeats', '3'),
    *('--out', str(out), *more),
  ]


@pytest.mark.slow  # three compiled steps, an evaluation
def test_a_method_beside_plain_prompts(films, tmp_path, capsys, monkeypatch):
  out = tmp_path / 'out'
  argv = _argv(out, '--methods', 'methods/ia3.gin')
  compare.main(argv)
  found = json.loads((out / 'compare.json').read_text())
  row = found['ia3']
  # a layer each: keys and values of three attentions, hidden units of two MLPs
  assert row['trainable'] == 3 * 2 * 15 + 2 * 11
  (tests,) = row['accuracy'].values()
  assert len(tests) == 1 and 0 <= tests[0] <= 100
  assert 0 < row['ratios'][0] <= row['ratio'] <= row['ratios'][1]
  assert row['peak_bytes'] > 0 and row['tasks_at_once'] == 1
  rows = results.Results(out / 'results.jsonl').rows
  assert [each['what'] for each in rows] == ['test', 'cost']
  shown = (out / 'compare.md').read_text()
  assert shown.splitlines()[0].startswith(
    f'| test accuracy, % | trainable | tasks a run | `{small.TASK}` | mean |'
  )
  assert capsys.readouterr().out.endswith(shown)

  def made(self, cell):
    raise AssertionError(f'{cell} is made again')

  for name in ('tuned', 'cost'):
    monkeypatch.setattr(compare.Comparison, name, made)
  compare.main(argv)
  assert json.loads((out / 'compare.json').read_text()) == found


def test_the_best_factor_is_taken(films, tmp_path, monkeypatch):
  def tuned(self, cell):
    # of the test split another would be better
    best = 3.0 if cell['what'] == 'validation' else 1.0
    return {'accuracy': {small.TASK: 70.0 - abs(cell['factor'] - best)}}

  monkeypatch.setattr(compare.Comparison, 'tuned', tuned)
  cost = {'trainable': 5, 'total': 7, 'ratio': 1.0, 'ratios': [1.0, 1.0]}
  cost['peak_bytes'] = 11
  monkeypatch.setattr(compare.Comparison, 'cost', lambda self, cell: cost)
  argv = _argv(tmp_path, '--methods', 'methods/ia3.gin', '--factors')
  compare.main([*argv, '1', '3', '10'])
  found = json.loads((tmp_path / 'compare.json').read_text())['ia3']
  assert found['factor'] == 3 and found['accuracy'] == {small.TASK: [68.0]}
  rows = results.Results(tmp_path / 'results.jsonl').rows
  tried = [(each['what'], each.get('factor')) for each in rows]
  assert tried == [
    *(('validation', factor) for factor in (1, 3, 10)),
    ('test', 3),
    ('cost', None),
  ]
  # where others are searched, the rate stays as the method's file has it
  compare.main([*argv, '3', '10', '--searched', 'methods/lora.gin'])
  found = json.loads((tmp_path / 'compare.json').read_text())['ia3']
  assert found['factor'] == 1 and found['accuracy'] == {small.TASK: [70.0]}


def test_what_asks_for_saved_prompts_is_left_out(films, tmp_path):
  args = compare.arguments(_argv(tmp_path))
  stems = compare.Comparison(args).methods
  assert 'methods/prompt.gin' in stems and 'methods/lora.gin' in stems
  assert 'methods/spot.gin' not in stems
  assert 'methods/attempt_multi.gin' not in stems
  with pytest.raises(UserError, match='reads saved prompts; expected a folder'):
    blanks.settings('methods/spot.gin', small.model(), [films], 3)


def test_methods_of_several_tasks_train_on_all_of_them(films, tmp_path):
  both = ['--tasks', small.TASK, 'movie_sentiment']
  args = compare.arguments([*_argv(tmp_path), *both])
  comparison = compare.Comparison(args)
  together, alone = (
    comparison.cells(method, comparison.groups(method), [1.0], [0, 1], 'test')
    for method in ('methods/multitask.gin', 'methods/prompt.gin')
  )
  assert [cell['tasks'] for cell in together] == [both[1:]] * 2
  assert [cell['tasks'] for cell in alone] == [[both[1]], [both[2]]] * 2
  given, _ = comparison.configured(together[0], tmp_path, 'test')
  assert given[3]['NUM_TASKS'] == 2 and given[3]['PROMPT_LENGTH'] == 3


def test_a_factor_multiplies_the_rate(films, tmp_path):
  comparison = compare.Comparison(compare.arguments(_argv(tmp_path)))
  groups = comparison.groups('methods/ia3.gin')
  (cell,) = comparison.cells(
    'methods/ia3.gin', groups, [10.0], [0], 'validation'
  )
  given, options = comparison.configured(cell, tmp_path, 'validation')
  assert given[3]['LEARNING_RATE'] == pytest.approx(3e-2)
  assert options == {'method': 'methods/ia3.gin', 'split': 'validation'}


def test_sources_are_of_other_tasks_and_one_length(tmp_path):
  small.prompts(tmp_path, count=2, rows=5)
  small.prompts(tmp_path / 'z', count=1, rows=3)
  found = blanks.sources(str(tmp_path), small.model(), ['prompt_0'])
  assert [file.name for file in found] == ['prompt_1.npy']
  with pytest.raises(UserError, match='expected prompts of other tasks'):
    blanks.sources(str(tmp_path / 'z'), small.model(), ['prompt_0'])


def test_every_method_can_be_filled_in(films, tmp_path):
  small.prompts(tmp_path, count=2, rows=5)
  args = compare.arguments(_argv(tmp_path, '--sources', str(tmp_path)))
  for method in compare.Comparison(args).methods:
    named = blanks.macros(method)
    if 'PROMPT_FILE' in named:
      continue  # chosen by the model, see the pair above
    filled = blanks.settings(method, small.model(), [films], 3, str(tmp_path))
    left = {
      name
      for name, value in named.items()
      if getattr(value, 'is_required', False) and name not in filled
    }
    assert not left, f'{method} leaves {left} open'


def test_table():
  row = {
    'trainable': 2048,
    'total': 204800,
    'tasks_at_once': 1,
    'factor': 3.0,
    'ratio': 1.5,
    'ratios': [1.25, 2.0],
    'peak_bytes': 3 * 2**20,
  }
  found = {
    'worse': {**row, 'accuracy': {'a': [50.0, 52.0], 'b': [60.0]}},
    'better': {**row, 'accuracy': {'a': [70.0], 'b': [80.0]}},
  }
  lines = compare.table(found, ['a', 'b']).splitlines()
  assert lines[2] == (
    '| `better` | 2,048 (1.00%) | 1 | 70.0 | 80.0 | 75.0 | 3 | '
    '1.50 (1.25 to 2.00) | 3 |'
  )
  assert lines[3].startswith('| `worse` | 2,048 (1.00%) | 1 | 51.0 ± 1.4 |')
