"""A run over an int8 base, from its gin files to its prompt."""

import numpy as np
import pytest

from prompt_jax import session, train
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.t5 import quantized
from prompt_jax.training.loop import Interruption
from tests import tiny

_INT8 = {'FROZEN_DTYPE': 'int8', 'ACTIVATION_DTYPE': 'float32'}


def test_a_prompt_learns_over_an_int8_base(tmp_path):
  run = tiny.trained()
  folder = tmp_path / 'int8'
  given = run.configured(MODEL_DIR=str(folder), **_INT8)
  began = session.Session(given, Interruption())
  held = {
    path
    for path, x in began.frozen.items()
    if isinstance(x, quantized.Quantized)
  }
  assert held == set(filter(quantized.is_dense, began.frozen))
  assert len(held) > 10
  found = train.train(given)
  # the base is the same one, however it is held: its prompts may be exchanged
  assert found['base_digest'] == run.summary['base_digest']
  name = run.prompt.name
  mine, about = saved.load(folder / 'prompts/4' / name)
  theirs, _ = saved.load(run.prompt)
  assert about['base_digest'] == found['base_digest']
  # four steps of 0.3 each, over products that are off by under a percent
  np.testing.assert_allclose(mine, theirs, atol=0.3)
  assert not np.array_equal(mine, theirs)


def test_it_goes_on(tmp_path):
  run = tiny.trained()
  folder = tmp_path / 'int8'
  train.train(run.configured(MODEL_DIR=str(folder), TRAIN_STEPS=3, **_INT8))
  again = train.train(run.configured(MODEL_DIR=str(folder), **_INT8))
  assert again['step'] == 4


def test_kernels_that_train_are_refused(tmp_path):
  run = tiny.trained('full')
  given = run.configured(MODEL_DIR=str(tmp_path / 'run'), **_INT8)
  with pytest.raises(UserError, match="FROZEN_DTYPE is 'int8', and 18 dense"):
    train.train(given)
