"""Known bugs, planted one at a time: the check that is meant for it fails.

A check that passes a broken engine is worth nothing, so each is first seen to
pass the engine as it is, by contract_test.py or its own file, and to fail
here. Which bug was caught by what is printed at the end of the tests.
"""

import pathlib

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import batches, export, ginfiles, params, prompted
from prompt_jax.prompts.place import Placed, place
from prompt_jax.session import Session
from prompt_jax.t5.t5 import T5
from prompt_jax.training.checkpoint import Checkpoints
from prompt_jax.training.step import Program
from tests import (
  checks,
  goldens_test,
  miniature,
  planted,
)

# fixtures of the tests below
small, setup, sound = planted.small, planted.setup, planted.sound


_PROMPT = 'methods/prompt.gin'
_TASKS = 'methods/multitask.gin'
_NORM = 'encoder/encoder_norm/scale'

# A method of inserts, so that their check has one to fail on.
_SCALED = """from __gin__ import dynamic_registration
from prompt_jax import prompted
from prompt_jax import train
from tests import mutants_test
prompted.PromptEncoderDecoder.inserts = [('.*/hidden', @mutants_test.Scale)]
mutants_test.Scale.first = {first}
mutants_test.Scale.reads = {reads}
train.Run.table = [('.*_insert/.*', 0.3)]
"""


class Scale(nn.Module):
  """y times a learned number; 1 at first is the identity."""

  first: float = 1.0
  reads: bool = True

  @nn.compact
  def __call__(self, y, x):
    del x
    first = nn.initializers.constant(self.first)
    scale = self.param('scale', first, y.shape[2:])
    return y * scale[None, None] if self.reads else y


def _encode_unmasked(self, tokens, task_ids=None, deterministic=True):
  """`T5.encode` that takes padding for input."""
  embeds = self.token_embedder(tokens)
  return self.encoder(embeds, tokens >= 0, task_ids, deterministic)


def test_padding_that_is_not_masked(setup, monkeypatch):
  monkeypatch.setattr(T5, 'encode', _encode_unmasked)
  planted.fails(checks.check_padding, setup(_PROMPT))


def test_prompt_after_the_padding(setup, monkeypatch):
  def behind(prompt, embeds, mask, where='prefix'):
    del where
    real = jnp.ones(prompt.shape[:2], bool)
    join = lambda *parts: jnp.concatenate(parts, axis=1)
    is_prompt = join(jnp.zeros_like(mask), real)
    return Placed(join(embeds, prompt), join(mask, real), is_prompt)

  monkeypatch.setattr(prompted, 'place', behind)
  planted.fails(checks.check_padding, setup(_PROMPT))


def test_wrong_task_id(setup, monkeypatch):
  right = prompted._ids
  # the id of the row before
  monkeypatch.setattr(
    prompted, '_ids', lambda ids, embeds: jnp.roll(right(ids, embeds), 1)
  )
  broken = setup(_TASKS)
  planted.fails(checks.check_task_isolation, broken)
  planted.fails(checks.check_batch_order, broken)


def test_prompt_that_drops_a_row(setup, monkeypatch):
  def short(prompt, embeds, mask, where='prefix'):
    return place(prompt.at[:, 0].set(0), embeds, mask, where)

  monkeypatch.setattr(prompted, 'place', short)
  planted.fails(checks.check_every_row_learns, setup(_PROMPT))


@pytest.mark.parametrize('method', [_PROMPT, _TASKS])
def test_export_of_the_wrong_array(sound, tmp_path, monkeypatch, method):
  right = export.prompt_arrays

  def without_scale(model, flat, tasks):
    """What the encoder's norm makes of a row, its scale forgotten."""
    arrays = right(model, flat, tasks)
    root = lambda x: np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    return {
      stack: {task: x / root(x) for task, x in each.items()}
      for stack, each in arrays.items()
    }

  monkeypatch.setattr(export, 'prompt_arrays', without_scale)
  planted.fails(checks.check_export, sound(method, tmp_path))


def test_export_under_the_wrong_task(sound, tmp_path, monkeypatch):
  right = export.prompt_arrays
  monkeypatch.setattr(
    export,
    'prompt_arrays',
    lambda model, flat, tasks: {
      stack: dict(zip(each, reversed(each.values()), strict=True))
      for stack, each in right(model, flat, tasks).items()
    },
  )
  planted.fails(checks.check_export, sound(_TASKS, tmp_path))


def test_a_table_that_trains_one_leaf_more(setup, monkeypatch):
  right = params.split

  def more(flat, table):
    return right(flat, [*table, (_NORM, 0.3)])

  monkeypatch.setattr(params, 'split', more)
  planted.fails(checks.check_only_the_table_moves, setup(_PROMPT))


def test_a_step_that_moves_a_frozen_leaf(sound, tmp_path, monkeypatch):
  right = Program.__call__

  def moving(self, state, frozen, batch):
    result = right(self, state, frozen, batch)
    frozen[_NORM] = frozen[_NORM] * (1 + 1e-6)  # a few last bits
    return result

  monkeypatch.setattr(Program, '__call__', moving)
  planted.fails(checks.check_only_the_table_moves, sound(_PROMPT, tmp_path))


def test_a_step_that_stands_still(sound, tmp_path, monkeypatch):
  right = Program.__call__

  def still(self, state, frozen, batch):
    # the step takes the memory of what it is given
    kept = {path: jnp.copy(x) for path, x in state.trainable.items()}
    state, sums = right(self, state, frozen, batch)
    return state.replace(trainable=kept), sums

  monkeypatch.setattr(Program, '__call__', still)
  broken = sound(_PROMPT, tmp_path)
  planted.fails(checks.check_only_the_table_moves, broken)
  planted.fails(checks.check_loss_falls, broken)


def test_a_checkpoint_of_the_whole_model(sound, tmp_path, monkeypatch):
  right = Session.save

  def whole(self, state, metrics, best):
    flat = params.merge(state.trainable, self.frozen)
    right(self, state.replace(trainable=flat), metrics, best)

  monkeypatch.setattr(Session, 'save', whole)
  monkeypatch.setattr(Session, 'export', lambda *args: None)
  planted.fails(checks.check_disk, sound(_PROMPT, tmp_path))


def test_resume_that_forgets_the_optimizer(sound, tmp_path, monkeypatch):
  right = Checkpoints.restore

  def forgetful(self, like, step=None):
    state, manifest = right(self, like, step)
    return state.replace(opt_state=like.opt_state), manifest

  broken = sound(_PROMPT, tmp_path)
  monkeypatch.setattr(Checkpoints, 'restore', forgetful)
  planted.fails(checks.check_resume, broken)


def test_data_order_that_ignores_the_seed(monkeypatch):
  right = batches.draws
  monkeypatch.setattr(batches, 'draws', lambda seed, *rest: right(0, *rest))
  planted.fails(checks.check_data_order, miniature.ordered)


@pytest.mark.parametrize(
  'first, reads, passes',
  [(1.0, True, True), (1.5, True, False), (1.0, False, False)],
)
def test_inserts(setup, tmp_path, first, reads, passes):
  method = tmp_path / 'scaled.gin'
  method.write_text(_SCALED.format(first=first, reads=reads))
  made = setup(method)
  if passes:
    checks.check_inserts(made)
    checks.check_disk(made)
  else:
    planted.fails(checks.check_inserts, made)


def test_insert_at_the_wrong_site(small, tmp_path):
  """The golden of a method knows where its inserts stand."""
  text = pathlib.Path(ginfiles.find('methods/ia3.gin')).read_text()
  wrong = tmp_path / 'ia3.gin'
  wrong.write_text(text.replace('(key|value|hidden)', '(query|value|hidden)'))
  assert wrong.read_text() != text
  planted.fails(
    goldens_test.test_parameters_are_those_of_the_golden, str(wrong), small
  )
