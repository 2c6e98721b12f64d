"""The matrix: as one prompt at a time, resumed, and what is refused."""

import numpy as np
import pytest

from prompt_jax import cli, data, tuned
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator
from prompt_jax.transfer import answers, cross_task, grid, matrix, shelf
from tests import tiny
from tests.transfer import small


@pytest.fixture(scope='module')
def prompts(tmp_path_factory):
  return small.write(tmp_path_factory.mktemp('prompts'))


@pytest.fixture
def asked(monkeypatch):
  """Counts the rows that the model answers."""
  rows, real = [], answers.Answerer.__call__

  def count(self, flat, batch, *rest):
    rows.extend(batch['task_ids'].tolist())
    return real(self, flat, batch, *rest)

  monkeypatch.setattr(answers.Answerer, '__call__', count)
  return rows


def found(prompts, output=None, random=None, **changes):
  held = shelf.read(prompts)
  held = held if random is None else held.plus_random(random)
  settings = small.settings(**changes)
  return cross_task.evaluate(
    small.base(), held, small.tasks(), output, settings
  )


def test_as_one_prompt_at_a_time(prompts):
  """Rows of several prompts share batches, and get what they would alone."""
  scores = found(prompts, how='rank')
  base, settings, (_, last) = small.base(), small.settings(), small.tasks()
  model, flat, _ = tuned.assemble(
    base.config, tiny.base(), str(prompts / f'{last}.npy'), 'bytes'
  )
  sets = [
    data.evaluation(task, 'validation', settings.lengths, vocabulary='bytes')
    for task in small.tasks()
  ]
  for result in Evaluator(model, sets, 'rank')(flat):
    assert scores.score(result.task, last) == result.metrics['accuracy']


def test_goes_on_where_it_stopped(prompts, tmp_path, asked):
  first = found(prompts, tmp_path)
  rows = 2 * 2 * small.EXAMPLES
  assert rows <= len(asked) < rows + 2 * small.BATCH
  del asked[:]
  again = found(prompts, tmp_path)
  assert not asked
  np.testing.assert_array_equal(again.scores, first.scores)
  wider = found(prompts, tmp_path, random=0)  # one prompt more
  assert set(asked) <= {0, 2} and 2 in asked  # 0 stands in rows that pad
  assert wider.prompts[-1] == 'random'
  np.testing.assert_array_equal(wider.scores[:, :2], first.scores)
  kept = matrix.read(tmp_path / 'matrix.csv')
  np.testing.assert_allclose(kept.scores, wider.scores, atol=1e-4)


def test_other_settings_need_another_folder(prompts, tmp_path):
  found(prompts, tmp_path, max_examples=3)
  with pytest.raises(UserError, match='max_examples: there 3, here 5'):
    found(prompts, tmp_path, max_examples=5)


def test_words_and_metrics_that_are_not_known(prompts):
  with pytest.raises(UserError, match="how is 'ranks'.*Nearest: 'rank'"):
    grid.Settings(how='ranks')
  with pytest.raises(UserError, match='batch_size is 0'):
    grid.Settings(batch_size=0)
  with pytest.raises(UserError, match="no metric 'f2'; expected one of"):
    found(prompts, metric='f2', max_examples=2)


def test_the_floor_is_the_share_of_the_majority(prompts):
  scores = found(prompts)
  for name, labels in small.LABELS.items():
    most = -(-small.EXAMPLES // len(labels))  # examples go round the labels
    wanted = 100 * most / small.EXAMPLES
    np.testing.assert_allclose(scores.floors[f'transfer_{name}'], wanted)


def test_command(prompts, tmp_path, capsys):
  argv = ['transfer', 'matrix', '--base', tiny.base(), '--vocabulary', 'bytes']
  argv += ['--prompts', str(prompts), '--tasks', *small.tasks()]
  argv += ['--output', str(tmp_path), '--input_length', '13']
  argv += ['--target_length', '5', '--batch_size', str(small.BATCH)]
  assert cli.main(argv) == 0
  said = capsys.readouterr().out
  assert 'relative to the own prompt\n' in said and 'random' in said
  assert (tmp_path / 'relative.csv').is_file()
  assert cli.main([*argv, '--corrected']) == 0
  said = capsys.readouterr().out
  assert 'from one answer to all on' in said and 'corrected.csv' in said
  assert cli.main([*argv[:7], str(tmp_path / 'no'), *argv[8:]]) == 2
  assert 'neither a folder nor' in capsys.readouterr().err
