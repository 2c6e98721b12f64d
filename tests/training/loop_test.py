"""The loop's order and its three ways to stop, with scripted parts."""

import os
import signal
import threading
import types

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.training.loop import Best, Interruption, Loop, Plan
from prompt_jax.training.metrics import NonFiniteError
from prompt_jax.training.state import State

SUMS = dict(
  loss=1.0, z_loss=0.0, correct=1.0, weights=2.0, tokens=2.0, sequences=1.0
)


def state(step=0):
  return State(np.int32(step), {'b': np.ones(2), 'a': np.ones(2)}, (), None)


class Script:
  """Parts of a loop that write down what they were asked for.

  Args:
    plan: of the loop.
    accuracies: {step: value}; an evaluation elsewhere finds nothing.
    nan_at: the step whose loss is not finite.
    term_at: (what, step) at which SIGTERM comes.
  """

  def __init__(self, plan, accuracies=None, nan_at=None, term_at=None):
    self.plan, self.accuracies = plan, accuracies or {}
    self.nan_at, self.term_at = nan_at, term_at
    self.said, self.saved, self.interruption = [], [], Interruption()

  def note(self, what, step):
    self.said.append(f'{what} {step}')
    if self.term_at == (what, step):
      os.kill(os.getpid(), signal.SIGTERM)

  def step(self, now, batch):
    number = int(now.step) + 1
    assert batch == number - 1
    self.note('step', number)
    bad = number == self.nan_at
    sums = {**SUMS, 'rate': 1.0, 'bad': np.array([False, bad])}
    return state(number), {**sums, 'loss': np.nan if bad else 1.0}

  def evaluate(self, now):
    step = int(now.step)
    self.note('evaluate', step)
    if self.interruption.requested or step not in self.accuracies:
      return {}
    return {'accuracy': self.accuracies[step], 'outside': 0.0}

  def save(self, now, metrics, best):
    self.note('save', int(now.step))
    accuracy = (metrics or {}).get('accuracy')
    self.saved.append((int(now.step), accuracy, best.step))

  def run(self, start=0, best=None):
    log = types.SimpleNamespace(
      write=lambda step, group, _: self.said.append(f'{group} {step}')
    )
    quiet = types.SimpleNamespace(show=lambda *_: None, say=lambda *_: None)
    parts = self.step, self.evaluate, self.save, log, quiet, self.interruption
    with self.interruption:
      end, best, reason = Loop(self.plan, *parts).run(
        state(start), iter(range(start, 99)), best or Best()
      )
    return int(end.step), best, reason


def test_order_of_a_turn():
  plan = Plan(7, eval_period=3, checkpoint_period=2, log_period=2)
  script = Script(plan, {3: 1.0, 6: 2.0, 7: 3.0})
  assert script.run()[::2] == (7, 'done')
  assert script.said == [
    *('step 1', 'step 2', 'train 2', 'save 2'),
    *('step 3', 'evaluate 3', 'eval 3', 'save 3'),
    *('step 4', 'train 4', 'save 4', 'step 5'),
    *('step 6', 'train 6', 'evaluate 6', 'eval 6', 'save 6'),
    *('step 7', 'train 7', 'evaluate 7', 'eval 7', 'save 7'),
  ]


def test_without_periods_all_happens_at_the_end():
  script = Script(Plan(3, log_period=0))
  script.run()
  assert script.said[2:] == ['step 3', 'train 3', 'evaluate 3', 'save 3']


def test_best_is_the_highest_and_the_earlier_of_equals():
  plan = Plan(8, eval_period=2, best_metric='accuracy')
  script = Script(plan, {2: 5.0, 4: 9.0, 6: 9.0, 8: 1.0})
  _, best, _ = script.run()
  assert best == Best(value=9.0, step=4, waited=2, evaluated=8)
  assert script.saved == [(2, 5.0, 2), (4, 9.0, 4), (6, 9.0, 4), (8, 1.0, 4)]


FALLING = {2: 5.0, 4: 4.0, 6: 4.0, 8: 6.0, 10: 7.0}
PATIENT = Plan(10, eval_period=2, best_metric='accuracy', patience=2)


def test_patience_stops_and_stays_stopped():
  script = Script(PATIENT, FALLING)
  step, best, reason = script.run()
  assert (step, reason) == (6, 'patience') and script.saved[-1][0] == 6
  again = Script(PATIENT, FALLING)  # the same command once more
  assert again.run(6, best) == (6, best, 'patience')
  assert again.said == []


@pytest.mark.parametrize('what', ['step', 'evaluate', 'save'])
@pytest.mark.parametrize('at', [2, 4, 6])
def test_best_and_patience_survive_sigterm(what, at):
  script = Script(PATIENT, FALLING, term_at=(what, at))
  step, best, reason = script.run()
  if (what, at) == ('save', 6):  # was going to stop there anyway
    assert (step, reason) == (6, 'patience')
    return
  assert (step, reason) == (at, 'SIGTERM') and script.saved[-1][0] == at
  again = Script(PATIENT, FALLING)
  step, best, reason = again.run(step, best)
  assert (step, reason) == (6, 'patience')
  assert best == Best(value=5.0, step=2, waited=2, evaluated=6)


def test_an_evaluation_that_was_cut_short_is_made_up_for_once():
  script = Script(PATIENT, FALLING, term_at=('evaluate', 4))
  step, best, _ = script.run()
  assert script.saved[1:] == [(4, None, 2)] * 2 and best.evaluated == 2
  again = Script(PATIENT, FALLING)
  again.run(step, best)
  assert again.said[:4] == ['evaluate 4', 'eval 4', 'save 4', 'step 5']


def test_sigterm_in_the_last_evaluation_is_told():
  script = Script(Plan(4, eval_period=4), {4: 1.0}, term_at=('evaluate', 4))
  assert script.run()[::2] == (4, 'SIGTERM')


def test_sigterm_between_periods_saves_where_it_stands():
  script = Script(Plan(9, eval_period=9), term_at=('step', 5))
  assert script.run()[::2] == (5, 'SIGTERM')
  assert script.said[-2:] == ['step 5', 'save 5']


@pytest.mark.parametrize('step', [1, 3, 4, 6])
def test_what_is_not_finite_is_never_saved(step):
  script = Script(Plan(6, eval_period=2), {2: 1.0, 4: 1.0}, nan_at=step)
  with pytest.raises(NonFiniteError) as caught:
    script.run()
  assert f'loss of step {step} is nan (first bad leaf: b)' in str(caught.value)
  assert [s for s, *_ in script.saved] == [s for s in (2, 4) if s < step]


def test_unknown_best_metric_shows_what_there_is():
  script = Script(Plan(2, best_metric='acuracy'), {2: 1.0})
  with pytest.raises(UserError, match="BEST_METRIC is 'acuracy'") as caught:
    script.run()
  assert 'expected one of accuracy, outside' in str(caught.value)


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'train_steps': -1}, 'TRAIN_STEPS is -1; expected a whole number'),
    ({'train_steps': 1e3}, 'TRAIN_STEPS is 1000.0; expected a whole number'),
    ({'log_period': -5}, 'LOG_PERIOD is -5'),
    ({'log_period': 'epoch'}, "LOG_PERIOD is 'epoch'"),
    ({'eval_period': 'epochs'}, "is 'epochs'; expected a whole number, 0 or"),
    ({'eval_period': -1}, "0 or more, or 'epoch'"),
    ({'patience': 2}, 'PATIENCE is 2 but BEST_METRIC is None'),
  ],
)
def test_plans_that_cannot_be(settings, said):
  with pytest.raises(UserError) as caught:
    Plan(**{'train_steps': 3, **settings})
  assert said in str(caught.value)


def test_a_period_of_an_epoch():
  plan = Plan(8, eval_period='epoch', checkpoint_period=5)
  assert plan.counts_epochs
  steps = plan.in_steps(3)
  assert steps == Plan(8, eval_period=3, checkpoint_period=5)
  assert [s for s in range(1, 9) if steps.evaluates(s)] == [3, 6, 8]
  assert not steps.counts_epochs and steps.in_steps(None) == steps
  both = Plan(8, 'epoch', 'epoch').in_steps(7)
  assert both == Plan(8, 7, 7)
  with pytest.raises(UserError, match="EVAL_PERIOD is 'epoch', but the data"):
    plan.in_steps(None)


def test_interruption_gives_the_handler_back():
  before = signal.getsignal(signal.SIGTERM)
  with Interruption() as interruption:
    assert signal.getsignal(signal.SIGTERM) != before
    assert not interruption.requested
    os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.requested
  assert signal.getsignal(signal.SIGTERM) == before


def test_interruption_outside_the_main_thread_is_never_raised():
  found = []

  def enter():
    with Interruption() as interruption:
      found.append(interruption.requested)

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert found == [False]
