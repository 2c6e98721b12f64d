"""Stages: what is compiled ahead, and what ends with the run."""

import types

import jax
import jax.numpy as jnp

from prompt_jax.staged import Staged

LENGTHS = {7: 3, 13: 5, 29: 0}  # {input length: batches to come}


class _Program:
  """Notes for which input lengths it was compiled or planned."""

  def __init__(self):
    self.ready_for, self.planned, self.is_closed = [], [], False

  def compiled(self, state, frozen, batch):
    self.ready_for.append(batch['encoder_input_tokens'].shape[1])

  def plan(self, state, frozen, batch, ahead):
    length = batch['encoder_input_tokens'].shape[1]
    self.planned.append((length, ahead))

  def cost(self):
    return {'flops': 1.0}

  def close(self):
    self.is_closed = True


class _Schedule(tuple):
  """Two stages of three updates."""

  is_plain, cuts = False, ('half', 'all')

  def at(self, number):
    return number // 3

  def end(self, stage):
    return 3 * (stage + 1)


def _staged():
  programs = [_Program(), _Program()]
  parts = types.SimpleNamespace(
    frozen=lambda stage: {}, shapes=lambda stage: {}
  )
  batch = {'encoder_input_tokens': jnp.zeros((5, 11), jnp.int32)}
  state = {'step': jax.device_put(0)}
  staged = Staged(
    *(_Schedule('ab'), parts, programs.__getitem__, 0), others=LENGTHS
  )
  staged.begin(state, batch)
  return staged, programs


def test_the_next_stage_is_compiled_for_all_lengths_to_come():
  staged, (first, second) = _staged()
  staged._coming[1].result()
  asked = [(length, batches > 0) for length, batches in LENGTHS.items()]
  for program in (first, second):
    assert program.ready_for == [11]
    assert program.planned == asked
  staged.close()


def test_what_was_begun_ends_with_the_run():
  staged, programs = _staged()
  staged.close()
  assert all(program.is_closed for program in programs)
