"""The report: every kind of file, without network, and what is refused."""

import json
import re

import pytest

from prompt_jax import cli, report
from prompt_jax.errors import UserError

FILES = {
  'run/metrics.jsonl': '{"step": 1, "group": "train", "loss": 0.5}\n'
  '{"step": 1, "group": "eval", "seconds": 1.0, "accuracy": 61.5}\n',
  'run/stages.json': {
    'stages': [{'start': 0, 'keeps': 'all', 'share': 1.0, 'flops': None}],
    'saved': {'products': 0.25, 'flops': None},
  },
  'run/seeds.json': {
    'seeds': [0, 1],
    'metrics': {'accuracy': {'mean': 60.0, 'std': None, 'each': [59.0, 61.0]}},
  },
  'study/matrix.csv': 'target,a,<b>\na,80.0,60.0\nb,,90.0\n',
  'study/indicators.csv': (
    'one,other,ON,ON_chance\na,b,0.7,0.2\na,c,0.8,0.1\n'
  ),
  'study/spearman.json': {'ON': {'with_self': 0.5, 'pooled': float('nan')}},
  'study/layers.json': {'ON': [0.6, 0.7], 'chance': [0.5, 0.5]},
  'study/masked.json': {
    'a': {
      'none': 80.0,
      'masked': [{'ratio': 0.2, 'own': 60.0, 'random': [75.0], 'other': {}}],
    }
  },
  'study/tables.json': {
    'speed': {'head': ['a', 'b'], 'rows': [['c', 1.5]], 'notes': ['d < e']}
  },
  'study/curves.json': {
    'both': {'across': 'step', 'lines': {'c': [[0, 1.0], [5, 2.0]], 'd': []}}
  },
  'study/projected.json': {
    'scores': {'a': {'projected': 70.0, 'random': 50.0}},
    'diagnostic': {'direction_ratio': 1e-9},
  },
}


def write(folder):
  """Writes a file of every kind below a folder."""
  for name, content in FILES.items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)


@pytest.fixture
def folder(tmp_path):
  write(tmp_path)
  return tmp_path


def test_every_file_has_its_section(folder, capsys):
  out = folder / 'report.html'
  assert cli.main(['report', str(folder), '--output', str(out)]) == 0
  text = out.read_text()
  assert text.count('<h3>') == len(FILES)
  for words in (
    '61.50',
    '25.00',
    'The projector has collapsed',
    '&lt;b&gt;',
    'd &lt; e',
  ):
    assert words in text
  assert '<b>' not in text and 'viewport' in text


def test_nothing_is_fetched(folder):
  text = report.page(folder)
  assert not re.search(r'(src|href|url\(|https?:|@import)', text)


def test_nothing_to_report(tmp_path):
  with pytest.raises(UserError, match='nothing to report in .*; expected a'):
    report.page(tmp_path)


def test_a_file_of_something_else(folder):
  (folder / 'study' / 'masked.json').write_text('[1]')
  with pytest.raises(UserError, match=r'masked\.json cannot be reported'):
    report.page(folder)


def test_numbers():
  assert report.number(None) == report.number(float('nan')) == '-'
  assert report.number(1234.567) == '1,234.57'
  assert report.number(1e-9) == '1.0e-09' and report.number(3) == '3'


def test_texts_break_where_they_may():
  rows = [['a_b', '1.0 ± 0.2']]
  said = report.table(['task_name', 'score'], rows)
  assert 'task_<wbr>name' in said and 'a_<wbr>b' in said
  assert '1.0&nbsp;±&nbsp;0.2' in said


def test_what_lies_in_the_folder_itself_has_no_heading(tmp_path):
  (tmp_path / 'layers.json').write_text('{"ON": [0.1, 0.2]}')
  assert '<h3>' not in report.page(tmp_path)


def test_a_chart_of_nothing_and_of_one_point():
  assert report.chart({'a': []}, 'step') == ''
  assert '<circle' in report.chart({'a': [(1, 2.0)]}, 'step')


def test_the_most_alike_are_first_by_overlap(folder):
  said = report.page(folder)
  assert 'the most alike by ON first' in said
  assert said.index('a / c') < said.index('a / b')
