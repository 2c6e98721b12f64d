"""What people see while a run trains."""

import io
import sys

import pytest

from prompt_jax.training import progress

METRICS = {'loss': 0.12345, 'accuracy': 0.5, 'seqs_per_second': 7.25}


class Screen(io.StringIO):
  """A text file that says it is a terminal."""

  def isatty(self):
    return True


@pytest.fixture
def clock(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def test_lines_where_there_is_no_terminal(clock, capsys):
  shown = progress.Progress(30, 10)
  clock[0] += 50.0
  shown.show(20, METRICS)  # ten steps took 50 s, ten are left
  shown.say('eval  step 20  accuracy 50.00')
  shown.close()
  assert capsys.readouterr().err == (
    'train step 20/30  loss 0.1235  accuracy 0.500  7.2 examples/s  '
    'left 0:00:50\neval  step 20  accuracy 50.00\n'
  )


def test_hours(clock, capsys):
  shown = progress.Progress(3701)
  clock[0] += 1.0
  shown.show(1, METRICS)
  assert 'left 1:01:40' in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch):
  screen = Screen()
  monkeypatch.setattr(sys, 'stderr', screen)
  shown = progress.Progress(30, 10)
  shown.show(20, METRICS)
  shown.say('eval  [step] 20')
  shown.close()
  assert '20/30' in screen.getvalue()
  assert 'eval  [step] 20' in screen.getvalue()
