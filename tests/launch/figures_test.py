"""Prompt length against initialisation: cells, resumption, table, picture."""

import json

import numpy as np
import pytest

from launch import tuning
from launch.figures import lengths, lines
from prompt_jax.prompts import saved
from tests.launch import small

ROWS = [
  {'init': init, 'length': length, 'seed': seed, 'accuracy': accuracy}
  for init, length, seed, accuracy in (
    ('random_uniform', 1, 0, 50.0),
    ('random_uniform', 1, 1, 52.0),
    ('random_uniform', 5, 0, 61.0),
    ('from_file', 1, 0, 70.0),
  )
]


def _argv(out, *more):
  return [
    *('--model', small.model(), '--task', small.TASK, '--steps', '2'),
    *('--seeds', '0', '--batch_size', '16', '--out', str(out), *more),
  ]


def _read(out) -> list[dict]:
  return list(map(json.loads, (out / 'results.jsonl').read_text().splitlines()))


def test_an_interrupted_figure_goes_on(tmp_path, monkeypatch, capsys):
  out, done = tmp_path / 'figures', []

  def run_cell(cell, args, out):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append((cell['init'], cell['length'], cell['seed']))
    return {**cell, 'accuracy': 50.0 + len(done)}

  monkeypatch.setattr(tuning, 'share_compiled', lambda out: None)
  monkeypatch.setattr(lengths, 'run_cell', run_cell)
  argv = _argv(out, '--lengths', '2', '7', '--inits', *lengths.INITS[:2])
  with pytest.raises(KeyboardInterrupt):
    lengths.main(argv)
  assert [row['accuracy'] for row in _read(out)] == [51, 52]
  done.clear()
  with pytest.raises(KeyboardInterrupt):
    lengths.main([*argv, '--steps', '3'])  # other cells: nothing is skipped
  assert len(_read(out)) == 4
  done.clear()
  with monkeypatch.context() as other:
    other.setattr(tuning, 'weights', lambda model: 'other weights')
    with pytest.raises(KeyboardInterrupt):
      lengths.main(argv)  # a base of the same name but other weights
  assert len(_read(out)) == 6
  done.clear()
  capsys.readouterr()
  lengths.main(argv)
  assert done == [
    ('from_sampled_vocab', 2, 0),
    ('from_sampled_vocab', 7, 0),
  ]
  assert capsys.readouterr().out.endswith(
    '| `random_uniform` | 51.0 | 52.0 |\n'
    '| `from_sampled_vocab` | 51.0 | 52.0 |\n'
  )


@pytest.mark.slow
def test_the_four_initialisers(films, tmp_path, capsys):
  small.prompts(tmp_path, count=1, rows=3)
  out = tmp_path / 'figures'
  source = ['--source', str(tmp_path / 'prompt_0.npy')]
  argv = ['--lengths', '5', '--inits', *lengths.INITS, *source]
  lengths.main(_argv(out, *argv))
  rows = _read(out)
  assert len({(row['init'], row['length']) for row in rows}) == 4
  first = saved.load(tmp_path / 'prompt_0.npy')[0]
  for row in rows:
    name = (
      f'small_{small.TASK}_{row["init"]}_{row["length"]}_0_2_{row["weights"]}'
    )
    start = out / 'cells' / name / 'prompts/0' / f'{small.TASK}.npy'
    begun, _ = saved.load(start, (row['length'], small.WIDTH))
    if row['init'] == 'from_file':
      np.testing.assert_array_equal(begun[:3], first[: row['length']])
      np.testing.assert_array_equal(begun[3:], first[: row['length'] - 3])
  said = capsys.readouterr().out
  assert '| prompt length | 5 |' in said
  assert len([x for x in said.splitlines() if x.startswith('| `')]) == 4


def test_a_prompt_of_another_length():
  prompt = np.arange(6.0).reshape(3, 2)
  assert lengths.stretched(prompt, 1).tolist() == [[0, 1]]
  assert lengths.stretched(prompt, 5)[:, 0].tolist() == [0, 2, 4, 0, 2]


def test_labels_past_the_last_row_are_left_out(films, tmp_path):
  settings = lengths.start_settings(
    'from_class_labels', 1, films, None, tmp_path
  )
  assert settings == {'CLASS_LABELS': ['negative']}


def test_table():
  groups = lengths.grouped(ROWS, ['random_uniform', 'from_file'])
  text = lines.table(groups, 'length', 'accuracy', 'prompt length')
  assert text.splitlines() == [
    '| prompt length | 1 | 5 |',
    '| --- | --: | --: |',
    '| `random_uniform` | 51.0 ± 1.4 | 61.0 |',
    '| `from_file` | 70.0 | - |',
  ]


def test_picture(tmp_path, capsys):
  pytest.importorskip('matplotlib')
  inits = ['random_uniform', 'from_file', 'from_sampled_vocab']
  groups = lengths.grouped(ROWS, inits)
  labels = {'title': 'mini, films', 'xlabel': 'rows', 'ylabel': '%'}
  lines.show(groups, 'length', 'accuracy', tmp_path, **labels)
  file = tmp_path / 'mini_films.png'
  assert file.read_bytes().startswith(b'\x89PNG')
  said = capsys.readouterr().out.splitlines()
  assert said[0] == str(file) and said[-1] == '| `from_sampled_vocab` | - | - |'


@pytest.mark.parametrize('model', ['mini', 'midi'])
def test_all_starts_of_a_shipped_base(model):
  args = lengths.arguments(['--model', model])
  assert args.inits == lengths.INITS
  prompt, _ = saved.load(args.source)
  assert prompt.shape[1] == {'mini': 128, 'midi': 256}[model]


def test_a_transferred_start_needs_its_file(capsys, monkeypatch):
  monkeypatch.setattr(lengths, 'USUAL', 'no such')
  assert lengths.arguments([]).inits == lengths.INITS[:3]
  with pytest.raises(SystemExit):
    lengths.arguments(['--inits', 'from_file'])
  assert 'needs --source, a saved prompt' in capsys.readouterr().err
