"""Programs: shapes that are planned, the thread, figures."""

import threading

from absl import logging
import jax
import numpy as np
import pytest

from prompt_jax import heap
from prompt_jax.training.program import Program

LENGTHS = 3, 5, 7


def like(length):
  return jax.ShapeDtypeStruct((length,), np.float32)


@pytest.fixture
def program():
  made = Program('the sum', lambda x: (x * x).sum())
  yield made
  made.close()


def test_planned_shapes_are_compiled_ahead_without_a_word(program, caplog):
  with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
    assert float(program(np.ones(3, np.float32))) == 3.0
    for length in LENGTHS:
      program.plan(like(length), ahead=length != 7)
    for length in LENGTHS:
      assert float(program(np.ones(length, np.float32))) == length
  assert program.compilations == 3 and not caplog.records
  with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
    program(np.ones(11, np.float32))
  (record,) = caplog.records
  assert 'compiling the sum again, for other shapes' in record.getMessage()


def test_the_heap_is_tidied_once_a_shape(program, monkeypatch):
  tidied = []
  monkeypatch.setattr(heap, 'tidy', lambda: tidied.append(len(tidied)))
  for length in (*LENGTHS, *LENGTHS):
    program(np.ones(length, np.float32))
  assert len(tidied) == len(LENGTHS)


def test_compiling_ahead_is_in_a_thread(program):
  threads = []

  def traced(x):
    threads.append(threading.current_thread().name)
    return x.sum()

  program._jitted = jax.jit(traced)
  program.plan(like(5))
  program.plan(like(5))  # twice is once
  for _ in range(600):
    if program.ready(like(5)):
      break
    threading.Event().wait(0.1)
  assert float(program(np.ones(5, np.float32))) == 5.0
  assert len(threads) == 1 and threads[0].startswith('compile')


def test_what_the_thread_has_not_begun_is_compiled_at_once(program):
  go, threads = threading.Event(), {}

  def traced(x):
    threads[x.shape[0]] = threading.current_thread()
    if x.shape[0] == 3:
      go.wait(60)
    return x.sum()

  program._jitted = jax.jit(traced)
  for length in LENGTHS:
    program.plan(like(length))
  assert float(program(np.ones(7, np.float32))) == 7.0
  assert threads[7] is threading.current_thread() and 5 not in threads
  go.set()
  assert float(program(np.ones(3, np.float32))) == 3.0
  program.close()
  assert threads[3] is not threading.current_thread()


def test_a_mistake_in_the_thread_is_told_where_it_is_waited_for(program):
  started = threading.Event()

  def broken(x):
    started.set()
    raise KeyError('no such parameter')

  program._jitted = jax.jit(broken)
  program.plan(like(3))
  assert started.wait(60)
  with pytest.raises(KeyError, match='no such parameter'):
    program(np.ones(3, np.float32))


def test_several_shapes_may_be_expected(caplog):
  program = Program('the sum', lambda x: x.sum(), several=True)
  with caplog.at_level('WARNING', logger=logging.get_absl_logger().name):
    for length in LENGTHS:
      program(np.ones(length, np.float32))
  assert program.compilations == 3 and not caplog.records


def test_figures_are_of_the_largest_and_flops_of_all_calls(program):
  flops = {}
  for length in 7, 3:
    before = program.flops
    program(np.ones(length, np.float32))
    flops[length] = program.flops - before
  assert 0 < flops[3] < flops[7]
  assert program.cost()['flops'] == flops[7]
  program(np.ones(3, np.float32))
  assert program.flops == 2 * flops[3] + flops[7]
