"""Transferred prompt against TF-IDF: what is drawn, chosen and written."""

import json
import types

import numpy as np
import pytest

from launch import few_shot, tuning
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.tasks import local
from tests.launch import small


def _argv(tmp_path, *more):
  return [
    *('--models', small.model(), '--tasks', small.TASK),
    *('--shots-total', '10', '--seeds', '3', '--candidates', '1'),
    *('--steps', '2', '--trial-steps', '1', '--batch-size', '8'),
    *('--prompts', str(tmp_path / 'prompts'), '--out', str(tmp_path / 'out')),
    *more,
  ]


@pytest.mark.slow
def test_a_cell(films, tmp_path, monkeypatch, capsys):
  small.prompts(tmp_path / 'prompts')
  few_shot.main(_argv(tmp_path))
  file = tmp_path / 'out/results.jsonl'
  (row,) = map(json.loads, file.read_text().splitlines())
  assert (row['n'], row['seed'], row['model']) == (10, 3, 'small')
  assert row['majority'] == pytest.approx(100 * 12 / 19)
  # one candidate stayed: it was tuned twice, and on all the rows
  assert list(row['trials']) == [row['source']]
  cells = tmp_path / 'out/cells/small' / small.TASK / '3'
  halves = [
    local.examples(local.definition(f'{small.TASK}_10_3_half{i}'), 'train')
    for i in range(2)
  ]
  whole = local.examples(local.definition(f'{small.TASK}_10_3'), 'train')
  assert sorted(halves[0] + halves[1]) == sorted(whole) and len(whole) == 10
  begun, _ = saved.load(cells / 'run/prompts/0' / f'{small.TASK}_10_3.npy')
  source, _ = saved.load(tmp_path / 'prompts' / f'{row["source"]}.npy')
  np.testing.assert_array_equal(begun, source)
  written = cells / 'run/eval/2' / f'{small.TASK}_10_3.json'
  written = json.loads(written.read_text())
  assert written['split'] == 'test' and written['examples'] == 19
  assert written['accuracy'] == row['prompt']

  monkeypatch.setattr(tuning, 'tune', None)  # would fail if it were called
  few_shot.main(_argv(tmp_path))
  assert len(file.read_text().splitlines()) == 1
  assert f'| `{small.TASK}`, `small` | 10 | 63.2 |' in capsys.readouterr().out


def test_prompts_as_they_are_are_told_apart(films, tmp_path):
  small.prompts(tmp_path, count=3)
  files = few_shot.candidates(tmp_path, small.WIDTH)
  assert [file.stem for file in files] == ['prompt_0', 'prompt_1', 'prompt_2']
  rows = local.examples(films, 'train')[:5]
  base = tuning.base(small.model())
  together = few_shot.as_they_are(base, files, films, rows)
  assert len(set(together.values())) == 3
  for file in files:  # the order of the files changes nothing
    alone = few_shot.as_they_are(base, [file], films, rows)
    assert alone[file] == pytest.approx(together[file], rel=1e-5)


def test_prompts_of_other_bases_are_refused(tmp_path):
  small.prompts(tmp_path)
  with pytest.raises(UserError, match='2 .npy files, none .* of width 11'):
    few_shot.candidates(tmp_path, 11)


def test_rows_are_judged_by_the_labels_alone():
  shares = np.exp(few_shot.log_shares(np.log([[0.02, 0.06], [0.3, 0.1]])))
  np.testing.assert_allclose(shares, [[0.25, 0.75], [0.75, 0.25]])
  rows = [
    {'target': 'b', 'prediction': 'b', 'scores': {'a': -4.0, 'b': -2.0}},
    {'target': 'a', 'prediction': 'b', 'scores': {'a': -4.0, 'b': -2.0}},
  ]
  tuned = types.SimpleNamespace(predictions=lambda: rows)
  (right, high), (wrong, low) = few_shot.judged(tuned)
  assert right and not wrong
  assert np.exp(high) + np.exp(low) == pytest.approx(1)
  assert high - low == pytest.approx(2)


def test_seeds():
  assert few_shot.seeds(['0..2', '7']) == [0, 1, 2, 7]


def test_table_compares_seed_by_seed():
  rows = [
    {'task': 'films', 'model': 'mini', 'n': 64, 'majority': 51.0, **found}
    for found in (
      {'tfidf': 60.0, 'prompt': 70.0},
      {'tfidf': 62.0, 'prompt': 61.0},
    )
  ]
  assert few_shot.table(rows).splitlines()[-1] == (
    '| `films`, `mini` | 64 | 51.0 | 61.0 ± 1.4 | 65.5 ± 6.4 | 4.5 ± 7.8 '
    '| 1 of 2 |'
  )
