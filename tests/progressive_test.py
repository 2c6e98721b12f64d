"""Runs in stages: what trains, what is compiled, and that they can stop."""

import dataclasses
import json
import threading

import numpy as np
import pytest

from prompt_jax import train
from prompt_jax.errors import UserError
from prompt_jax.session import Session, Shared
from prompt_jax.training.checkpoint import Checkpoints, named
from prompt_jax.training.loop import Interruption
from prompt_jax.training.progress import Progress
from prompt_jax.training.step import Program
from tests import progressive, resume_test

NAME = 'in_stages'
STEPS = progressive.STAGES['TRAIN_STEPS']


class Struck(BaseException):
  """Ends a run as a signal would: nothing is saved on the way out."""


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """Folder of the files, and what all runs here have compiled."""
  folder = tmp_path_factory.mktemp('stages')
  progressive.write(folder, NAME)
  return folder, Shared()


def begin(small, where, *args, **settings):
  """A run that evaluates nothing and saves after every step."""
  settings = {'EVAL_PERIOD': 0, 'LOG_PERIOD': 1, 'KEEP': 9, **settings}
  run = progressive.configured(small[0], where, *args, **settings)
  run.evaluations = ()
  run.plan = dataclasses.replace(run.plan, checkpoint_period=1)
  return run


def states_of(run):
  """Every leaf of the newest state, on the host."""
  session = Session(run, Interruption())
  state, _ = session.restore()
  return {k: np.asarray(x) for k, x in named(state)[0].items()}


@pytest.fixture(scope='module')
def whole(small):
  """A run that nothing disturbs, and which threads compiled its steps."""
  folder, shared = small
  threads, compiled = [], Program.compiled

  def watched(program, *args):
    before = program.compilations
    made = compiled(program, *args)
    if program.compilations > before:
      threads.append((program.name, threading.current_thread().name))
    return made

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Program, 'compiled', watched)
    summary = train.train(begin(small, folder / 'whole'), shared)
  return summary, threads


@pytest.mark.slow
def test_one_compilation_a_stage_and_ahead_of_it(whole, small):
  summary, threads = whole
  assert [name for name, _ in threads] == ['the training step'] * 3
  first, *others = [thread for _, thread in threads]
  assert first == threading.current_thread().name
  assert all(thread.startswith('compile') for thread in others)
  assert summary['step'] == STEPS and len(small[1].programs) == 3
  prompts = [
    np.load(small[0] / f'whole/prompts/{n}/{NAME}.npy')
    for n in range(STEPS + 1)
  ]
  for one, two in zip(prompts, prompts[1:], strict=False):
    assert (one != two).any() and one.shape == two.shape


@pytest.mark.slow
def test_what_stages_save(whole, small):
  summary, _ = whole
  told = json.loads((small[0] / 'whole' / 'stages.json').read_text())
  assert told == {'stages': summary['stages'], 'saved': summary['saved']}
  rows, share = told['stages'], told['saved']
  assert [row['start'] for row in rows] == [0, *progressive.BOUNDARIES]
  assert [row['timed_steps'] for row in rows] == [2, 3, 2]
  assert rows[0]['share'] < rows[1]['share'] < rows[2]['share'] == 1
  spent = sum(n * row['share'] for n, row in zip((2, 3, 2), rows, strict=True))
  assert share['products'] == pytest.approx(1 - spent / 7)
  flops = [row['flops'] for row in rows]
  assert flops == sorted(flops) and flops[0] < flops[2]
  assert share['flops'] == pytest.approx(
    1 - (2 * flops[0] + 3 * flops[1] + 2 * flops[2]) / (7 * flops[2])
  )
  assert share['seconds'] is not None


@pytest.mark.slow
@pytest.mark.parametrize('struck', range(1, STEPS + 1))
def test_struck_at_any_update_and_resumed(struck, whole, small, monkeypatch):
  """Goes on from the step before: inside a stage and at both its ends."""
  folder, shared = small
  where, show = folder / f'struck_{struck}', Progress.show

  def strike(progress, step, metrics):
    if step == struck:
      raise Struck
    show(progress, step, metrics)

  with monkeypatch.context() as patch:
    patch.setattr(Progress, 'show', strike)
    with pytest.raises(Struck):
      train.train(begin(small, where), shared)
  assert (
    max(Checkpoints(where / 'checkpoints').steps(), default=0) == struck - 1
  )
  train.train(begin(small, where), shared)
  again = states_of(begin(small, where))
  undisturbed = states_of(begin(small, folder / 'whole'))
  assert again.keys() == undisturbed.keys() and len(again) > 4
  for name, leaf in undisturbed.items():
    np.testing.assert_array_equal(again[name], leaf, err_msg=name)
  assert resume_test.points(where) == resume_test.points(folder / 'whole')
  for step in range(STEPS + 1):
    name = f'prompts/{step}/{NAME}.npy'
    assert (where / name).read_bytes() == (folder / 'whole' / name).read_bytes()
  told = json.loads((where / 'stages.json').read_text())['stages']
  assert [row['timed_steps'] for row in told] == [2, 3, 2]
  assert len(shared.programs) == 3


@pytest.mark.slow
def test_other_stages_are_refused(whole, small):
  run = begin(small, small[0] / 'whole', STAGE_STEPS=[3, 2, 2])
  with pytest.raises(UserError) as caught:
    train.train(run, small[1])
  said = str(caught.value)
  assert 'holds a run of another method, base or data' in said
  assert 'stages: there' in said and 'from step 2' in said
  assert 'from step 5' not in said, 'what is alike need not be told'


@pytest.mark.slow
def test_one_whole_stage_is_plain_training(small):
  folder, shared = small
  none = {'STAGE_DEPTHS': None, 'STAGE_WIDTHS': None, 'STAGE_STEPS': None}
  asked = {k: 'None' for k in none} | {'TRAIN_STEPS': 3}
  made = {
    'plain': begin(small, folder / 'plain', 'runs/train.gin', TRAIN_STEPS=3),
    'staged': begin(small, folder / 'staged', **asked),
  }
  for run in made.values():
    assert train.train(run, shared)['saved']['products'] == 0
  one, two = (states_of(run) for run in made.values())
  for name, leaf in one.items():
    np.testing.assert_array_equal(two[name], leaf, err_msg=name)
  identities = [Session(run, Interruption()).identity for run in made.values()]
  assert identities[0] == identities[1]


@pytest.mark.slow
def test_scores_of_another_base(small, tmp_path):
  folder, _ = small
  (tmp_path / 'scores.npz').write_bytes((folder / 'scores.npz').read_bytes())
  (tmp_path / 'scores.json').write_text('{"base_digest": "another"}')
  settings = {'SCORES_FILE': tmp_path / 'scores.npz'}
  with pytest.raises(UserError, match='was saved with base_digest another'):
    train.train(begin(small, tmp_path / 'run', **settings), small[1])
  allowed = begin(small, tmp_path / 'run', ALLOW_OTHER_BASE=True, **settings)
  Session(allowed, Interruption())


def test_what_is_evaluated(small, tmp_path):
  run = begin(small, tmp_path, EVAL_MODELS="['stage', 'best']")
  with pytest.raises(UserError, match='EVAL_MODELS is .*expected one or both'):
    run.check()
  settings = {'EVAL_MODELS': "['stage', 'full']", 'BEST_METRIC': 'accuracy'}
  with pytest.raises(
    UserError, match='compare the scores of . different parts'
  ):
    begin(small, tmp_path, **settings).check()


@pytest.mark.slow
def test_a_part_that_never_grows(small, capsys):
  """Trained and evaluated as it is, and on the whole model."""
  folder, shared = small
  settings = {
    **{'STAGE_DEPTHS': [0.34], 'STAGE_WIDTHS': None, 'STAGE_STEPS': None},
    **{'TRAIN_STEPS': 3, 'EVAL_PERIOD': 2, 'BEST_METRIC': 'accuracy'},
  }
  settings['EVAL_MODELS'] = "['stage', 'full']"
  settings = {k: 'None' if x is None else x for k, x in settings.items()}
  run = progressive.configured(folder, folder / 'part', **settings)
  summary = train.train(run, shared)
  assert 'stage 1 of 1, from step 0 to 3: encoder layers 0 x 11' in (
    capsys.readouterr().err
  )
  row = summary['stages'][0]
  assert row['share'] < 1 and summary['saved']['products'] > 0
  assert summary['saved']['flops'] is None  # the whole was never compiled
  points = resume_test.points(folder / 'part')
  for point in [p for p in points if p['group'] == 'eval']:
    assert {'accuracy', 'full/accuracy'} <= point.keys()
  under = folder / 'part' / 'eval' / '2'
  files = {f.relative_to(under).as_posix() for f in under.rglob('*.jsonl')}
  assert files == {f'{NAME}.jsonl', f'full/{NAME}.jsonl'}
  part, full = (
    [json.loads(line)['scores'] for line in (under / f).open()]
    for f in (f'{NAME}.jsonl', f'full/{NAME}.jsonl')
  )
  assert part != full
  again = dataclasses.replace(run, evaluated=('full',))
  again.mesh = run.mesh
  session = Session(again, Interruption(), shared.evaluators)
  found = session.evaluate(session.restore()[0])
  assert found['accuracy'] == points[-1]['full/accuracy']
