"""The clock of a start: phases that do not overlap and add up."""

import threading

import pytest

from prompt_jax import startup


def test_phases_add_up_to_the_whole():
  now = [0.0]
  found = startup.Startup(0.0, lambda: now[0])

  def wait(seconds):
    now[0] += seconds

  wait(2.0)
  found.imported()
  wait(0.25)
  with found.phase('load'):
    wait(1.0)
    with found.phase('data'):  # inside another, whose clock stands
      wait(4.0)
    wait(0.5)
  with found.phase('compile'):
    wait(3.0)
  assert found.seconds() is None
  with found.phase('first_step'):
    wait(0.125)
  found.end()
  wait(100.0)
  found.end()
  with found.phase('data'):  # after the first step nothing counts
    wait(1.0)
  assert found.seconds() == pytest.approx(
    {
      **{'imports': 2.0, 'data': 4.0, 'load': 1.5, 'compile': 3.0},
      **{'first_step': 0.12, 'other': 0.25, 'total': 10.88},
    }
  )
  assert found.said() == (
    'first step after 10.9 s: imports 2.0, data 4.0, load 1.5, compile 3.0, '
    'first step 0.1, other 0.2'
  )
  found.again()
  wait(1.0)
  found.end()
  assert found.seconds()['total'] == 1.0 and not found.seconds()['imports']


def test_other_threads_are_not_waited_for():
  now = [0.0]
  found = startup.Startup(0.0, lambda: now[0])

  def work():
    with found.phase('data'):
      now[0] += 5.0

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  found.end()
  assert found.seconds()['data'] == 0.0 and found.seconds()['other'] == 5.0


def test_only_the_first_step_is_announced():
  said, steps = [], []

  def step(state, batch):
    steps.append(batch)
    return state + 1, {}

  run = startup.announced(step, said.append)
  state, _ = run(0, 'a')
  state, _ = run(state, 'b')
  assert (state, steps) == (2, ['a', 'b'])
  assert len(said) == 1 and said[0].startswith('first step after ')
