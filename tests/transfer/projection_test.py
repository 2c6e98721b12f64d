"""From training a projector to its scores and its diagnostic."""

import json
import os
import shutil
from unittest import mock

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from prompt_jax.transfer import collapse, cross_model, projection, shelf
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.projector import Projector
from tests import tiny
from tests.transfer import small

SHAPE = (small.SOURCE_P, small.SOURCE_H)
ROWS = ('--batch_size', str(small.BATCH))  # of evaluations


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  names = [*small.tasks(), 'third']
  about = {'base_digest': 'source'}
  where = tmp_path_factory.mktemp('sources')
  return small.write(where, names, shape=SHAPE, **about)


def flags(action, prompts, output, *more):
  argv = ['transfer', action, '--base', tiny.base(), '--vocabulary', 'bytes']
  argv += ['--prompts', str(prompts), '--output', str(output)]
  argv += ['--tasks', *small.tasks(), '--input_length', '13']
  return [*argv, '--target_length', '5', *more]


def train(sources, folder):
  """Two steps by task, with an evaluation before each and at the end."""
  argv = flags('project', sources, folder, '--steps', '2', *ROWS)
  argv += ['--hidden', '11', '--length', '3', '--train_batch_size', '8']
  # set, so that the run does not change where JAX keeps compiled programs
  with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR='unused'):
    assert cli.main([*argv, '--eval_period', '1']) == 0


@pytest.fixture(scope='module')
def trained(sources, tmp_path_factory):
  folder = tmp_path_factory.mktemp('trained')
  train(sources, folder)
  return folder


def test_by_task(trained, sources):
  network, flat, about = projectors.load(trained / 'projector.npz')
  assert network == Projector(3, small.H, 11)
  assert about['objective'] == 'task' and about['tasks'] == [*small.tasks()]
  assert about['source_base_digest'] == 'source'
  assert about['base_digest'] == small.base().digest
  exported = np.load(
    trained / 'run' / 'prompts' / '2' / f'{small.tasks()[1]}.npy'
  )
  held = shelf.read(sources).only(small.tasks()[1:])
  made = projectors.apply(network, flat, held.prompts)
  np.testing.assert_allclose(made[0], exported, rtol=1e-4, atol=1e-5)


def test_training_says_whether_it_has_collapsed(trained, sources, capsys):
  """At each evaluation of the tasks trained on; then of all the prompts."""
  train(sources, trained)  # goes on: there is nothing to do
  said = capsys.readouterr().out
  lines = [line for line in said.splitlines() if 'direction ratio' in line]
  assert [line.split(':')[0] for line in lines] == [
    *('step 0', 'step 1', 'step 2'),
    'outputs of 3 sources',
  ]
  made = shelf.read(trained / 'run' / 'prompts' / '0')
  assert f'{collapse.variance_ratio(made.prompts):.2e}' in lines[0]
  assert 'input gain' in said and 'transfer projected --projector' in said


def test_evaluation(trained, sources, tmp_path, capsys):
  own = small.write(tmp_path / 'own')
  argv = flags('projected', sources, tmp_path / 'out', *ROWS)
  argv += ['--projector', str(trained / 'projector.npz')]
  assert cli.main([*argv, '--target_prompts', str(own)]) == 0
  said = capsys.readouterr().out
  for words in ('direction ratio', "right source minus another task's:"):
    assert words in said
  found = json.loads((tmp_path / 'out' / 'projected.json').read_text())
  kinds = {'projected', 'shuffled', 'noise', 'random', 'own'}
  assert all(kinds == {*scores} for scores in found['scores'].values())
  first = small.tasks()[0]
  made = shelf.read(tmp_path / 'out' / 'prompts')
  assert len(made) == 3 and made.sidecars[0]['base_digest'] != 'source'
  model, flat = small.base().prompted(made)  # initial values of this base
  assert flat['encoder/prompt/prompts'].shape == (3, 3, small.H)
  gap = [s['projected'] - s['noise'] for s in found['scores'].values()]
  assert found['diagnostic']['gap_noise'] == np.mean(gap)
  assert first in found['diagnostic']['trained_on']


def test_a_blind_projector_stays_blind(trained, sources, tmp_path):
  network, flat, about = projectors.load(trained / 'projector.npz')
  base, held = small.base(), shelf.read(sources)
  seeing, _ = projection.project(trained / 'projector.npz', held, base)
  assert not np.array_equal(seeing.prompts[0], seeing.prompts[1])
  training = {**about['training'], 'blind': True}
  path = tmp_path / 'projector.npz'
  projectors.save(path, network, flat, {**about, 'training': training})
  blind, _ = projection.project(path, held, base)
  wanted = projectors.apply(network, flat, np.zeros((1, *SHAPE), np.float32))
  for prompt in blind.prompts:
    np.testing.assert_allclose(prompt, wanted[0], rtol=1e-6)


def test_prompts_it_was_not_made_for(trained, tmp_path):
  path, base = trained / 'projector.npz', small.base()
  longer = shelf.of({'a': np.ones((6, 2))})
  with pytest.raises(UserError, match='expects P x Hs = 10'):
    projection.project(path, longer, base)
  other = shelf.of({'a': np.ones(SHAPE)}, {'base_digest': 'other'})
  with pytest.raises(UserError, match='base_digest other, here it is source'):
    projection.project(path, other, base)
  alone = shelf.of({'a': np.ones(SHAPE)})
  with pytest.raises(UserError, match='There is no prompt of'):
    projection.evaluate(
      path, base, alone, small.tasks(), settings=small.settings()
    )


def test_by_distance(sources, tmp_path, capsys):
  own = small.write(tmp_path / 'own')
  argv = flags('project', sources, tmp_path / 'out', '--hidden', '11')
  argv += ['--target_prompts', str(own), '--steps', '3', '--length', '3']
  assert cli.main(argv) == 0
  said = capsys.readouterr().out
  assert 'in 3 steps' in said and 'outputs of 3 sources: variance' in said
  about = projectors.load(tmp_path / 'out' / 'projector.npz')[2]
  assert about['objective'] == 'distance'
  assert cli.main([*argv, '--length', '4']) == 2
  assert 'Give --length=3' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('more', 'text'),
  [
    (('--blind',), 'was asked to be blind; expected one of them'),
    (('--steps', '-5'), '--steps is -5; expected a whole number, 0 or more'),
    (('--train_batch_size', '0'), '--train_batch_size is 0; expected a whole'),
    (('--rate', '-1'), '--rate is -1.0; expected a number above 0'),
  ],
)
def test_trainings_that_are_none(sources, tmp_path, capsys, more, text):
  own = small.write(tmp_path / 'own')
  argv = flags('project', sources, tmp_path / 'out', '--length', '3')
  assert cli.main([*argv, '--target_prompts', str(own), *more]) == 2
  assert text in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_targets_of_another_base(sources, tmp_path, capsys):
  own = small.write(tmp_path / 'own')
  for file in own.glob('*.json'):
    file.write_text('{"base_digest": "another"}')
  argv = flags('project', sources, tmp_path / 'out', '--hidden', '11')
  argv += ['--target_prompts', str(own), '--steps', '1', '--length', '3']
  assert cli.main(argv) == 2
  assert 'base_digest another, here it is' in capsys.readouterr().err
  assert cli.main([*argv, '--allow_other_base']) == 0


def test_half_a_run_is_no_projector(sources, tmp_path, monkeypatch):
  monkeypatch.setattr(
    'prompt_jax.train.train', lambda run: {'reason': 'SIGTERM'}
  )
  argv = flags('project', sources, tmp_path / 'out', '--length', '3')
  with pytest.raises(SystemExit, match='the same command goes on with'):
    cli.main(argv)
  assert not (tmp_path / 'out' / 'projector.npz').exists()


def test_a_projector_of_another_width(sources, tmp_path):
  held = shelf.read(sources).only(small.tasks())
  with pytest.raises(UserError, match=r'makes prompts \[3, 8\].*\[Q, 7\]'):
    cross_model.train_by_task(small.base(), held, Projector(3, 8), tmp_path)


def test_by_both(sources, tmp_path, monkeypatch):
  """The target prompts of the tasks go with their sources, in their order."""
  own = small.write(tmp_path / 'own', [*small.tasks()[::-1], 'fourth'])
  seen = {}

  def train(run):
    seen['source'] = run.model.encoder_prompt()
    raise UserError('seen')

  monkeypatch.setattr('prompt_jax.train.train', train)
  argv = flags('project', sources, tmp_path / 'out', '--hidden', '11')
  argv += ['--objective', 'both', '--weight', '3', '--length', '3']
  assert cli.main([*argv, '--target_prompts', str(own)]) == 2
  source = seen['source']
  assert source.weight == 3 and len(source.targets) == len(small.tasks())
  for name, path in zip(small.tasks(), source.targets, strict=True):
    np.testing.assert_array_equal(np.load(path), np.load(own / f'{name}.npy'))
  source.check(small.H)


@pytest.mark.parametrize('how', ['rank', 'generate'])
def test_evaluations_answer_as_they_are_asked(
  sources, tmp_path, monkeypatch, capsys, how
):
  def train(run):
    raise UserError(f'mode {run.eval_mode}')

  monkeypatch.setattr('prompt_jax.train.train', train)
  argv = flags('project', sources, tmp_path / 'out', '--hidden', '11')
  assert cli.main([*argv, '--length', '3', '--how', how]) == 2
  assert f'mode {how}' in capsys.readouterr().err


def test_sources_of_another_length_than_the_checkpoint(
  trained, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  folder = shutil.copytree(trained, tmp_path / 'copy')
  about = {'base_digest': 'source'}
  longer = small.write(tmp_path, small.tasks(), shape=(6, SHAPE[1]), **about)
  argv = flags('project', longer, folder, '--steps', '2', '--hidden', '11')
  argv += ['--length', '3', '--train_batch_size', '8', *ROWS]
  assert cli.main(argv) == 2
  said = capsys.readouterr().err
  assert 'holds a run of another method, base or data' in said
  assert 'first/kernel' in said and '[10, 11]' in said and '[12, 11]' in said
