"""A member stops, saves and goes on as a run alone does."""

import types

import numpy as np
import pytest

from prompt_jax import member
from prompt_jax.errors import UserError
from prompt_jax.training.loop import Best, Interruption, Plan


class _Session:
  """A session without a model: what it was asked for, and given metrics."""

  def __init__(self, metrics, best):
    self._metrics, self._best = list(metrics), best
    self.saved, self.identity = [], {}
    self.checkpoints = types.SimpleNamespace(
      save=lambda state, manifest: self.saved.append(
        (int(state.step), manifest['metrics'], manifest['best']['step'])
      ),
      close=lambda: None,
    )

  def restore(self):
    return _state(self._best.evaluated), self._best

  def export(self, state, metrics):
    pass

  def evaluate(self, state):
    return self._metrics.pop(0)


def _state(step):
  return types.SimpleNamespace(step=step, trainable={'p': np.zeros(3)})


def _member(folder, metrics, best=None, **plan):
  settings = {'train_steps': 7, 'eval_period': 1, 'best_metric': 'f1'}
  config = types.SimpleNamespace(activation_dtype='float32')
  run = types.SimpleNamespace(
    folder=folder,
    plan=Plan(**settings | plan),
    evaluations=[1],
    base='base',
    model=types.SimpleNamespace(config=config),
  )
  made = member.Member('one', {}, run, 'gin', lambda: None)
  made.open(_Session(metrics, best or Best()), Interruption(), print)
  return made


def _update(made):
  made.number += 1
  sums = {'loss': 2.0, 'weights': 1.0, 'z_loss': 0.0, 'correct': 1.0}
  sums |= {'rate': 1.0, 'sequences': 1.0, 'tokens': 1.0, 'bad': [False]}
  made.take(made.number, sums)
  return made.turn(_state(made.number))


def test_patience_and_the_best(tmp_path):
  values = [{'f1': value} for value in (5.0, 7.0, 7.0, 6.0)]
  made = _member(tmp_path, values, patience=2, log_period=1)
  made.begin()
  while made.active:
    assert _update(made)['loss'] == 2.0
  assert (made.reason, made.number, made.best.step) == ('patience', 4, 2)
  assert [step for step, _, _ in made.session.saved] == [1, 2, 3, 4]
  assert made.session.saved[-1] == (4, {'f1': 6.0}, 2)
  assert (tmp_path / 'config.gin').read_text() == 'gin'
  made.close()


def test_it_is_done_at_its_last_step(tmp_path):
  made = _member(tmp_path, [{'f1': 1.0}] * 7, train_steps=2)
  made.begin()
  _update(made)
  assert made.active
  _update(made)
  assert made.reason == 'done'
  again = _member(tmp_path, [], Best(1.0, 1, 1, 2), train_steps=2)
  assert again.reason == 'done'
  tired = _member(tmp_path, [], Best(1.0, 1, 3, 4), patience=3)
  assert tired.reason == 'patience'
  made.close()


def test_numbers_that_are_not_finite(tmp_path, capsys):
  made = _member(tmp_path, [])
  made.begin()
  made.number = 1
  made.take(1, {'loss': float('nan'), 'bad': [True]})
  assert made.reason == member.DIVERGED
  assert 'first bad leaf: p' in made.failure
  assert 'one: The loss of step 1 is nan' in capsys.readouterr().out
  made.close()


def test_an_unknown_metric(tmp_path):
  made = _member(tmp_path, [{'accuracy': 1.0}])
  made.begin()
  made.number = 1
  with pytest.raises(UserError, match="BEST_METRIC is 'f1'; expected one of a"):
    made.turn(_state(1))
  made.close()


def test_the_clock_counts_what_is_between_go_and_stand():
  times = iter([1.0, 3.0, 10.0, 11.0])
  clock = member.Clock(lambda: next(times))
  clock.go()
  clock.go()
  clock.stand()
  clock.stand()
  clock.go()
  clock.stand()
  assert clock.seconds == 3.0
