"""`PromptHub`: the calls over the functions."""

import os
from unittest import mock

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.transfer import cross_model, cross_task, masks, shelf
from prompt_jax.transfer.hub import PromptHub
from prompt_jax.transfer.projector import Projector
from tests import tiny
from tests.transfer import small


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hub')
  bases = {'target': tiny.base(), 'source': tiny.base()}
  made = PromptHub(folder, small.settings(), bases, 'bytes')
  first, second = small.tasks()
  with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR='unused'):
    made.train_prompt('target', first, length=3, steps=2, batch_size=8)
  made.add_prompt('target', second, small.arrays(1)[0])
  for task, prompt in zip(small.tasks(), small.arrays(2, (5, 2)), strict=True):
    made.add_prompt('source', task, prompt)
  return made


def test_training_and_evaluation(hub):
  first, second = small.tasks()
  kept = hub.prompts('target') / f'{first}.npy'
  array, about = saved.load(kept)
  assert array.shape == (3, small.H) and about['step'] == 2
  held = shelf.read(hub.prompts('target'))
  table = cross_task.evaluate(
    hub.base('target'), held, [first], None, small.settings()
  )
  assert hub.eval_prompt('target', first) == table.score(first, first)
  found = hub.cross_task_eval('target', second, first)
  assert found == table.score(first, second)
  assert found == hub.cross_task_eval('target', small.arrays(1)[0], first)


def test_neurons(hub):
  first, second = small.tasks()
  raw, active = hub.activated_neuron('target', first)
  np.testing.assert_array_equal(active, raw > 0)
  assert hub.neuron_similarity('target', first, second).shape == (1,)
  _, mask = hub.mask_activated_neuron('target', first, ratio=0.3)
  np.testing.assert_array_equal(mask, masks.largest(raw, 0.3))
  found = hub.mask_activated_neuron('target', first, [0], 0.3)[1]
  np.testing.assert_array_equal(found, mask)  # the base has one layer
  other = hub.activated_neuron('target', second)[0]
  foreign = hub.mask_activated_neuron('target', first, prompt=second)[1]
  np.testing.assert_array_equal(foreign, masks.largest(other, 0.2))
  none = hub.mask_activated_neuron('target', first, ratio=0, prompt=second)[0]
  assert none == hub.cross_task_eval('target', second, first)
  pytest.importorskip('matplotlib')
  assert hub.plot_neuron('target', first).stat().st_size > 0


def test_cross_model(hub, capsys):
  network = Projector(3, small.H, 5)
  training = cross_model.Training(2, batch_size=8)
  with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR='unused'):
    path = hub.cross_model_train(
      *('source', 'target', small.tasks()),
      projector=network,
      training=training,
    )
  assert path.is_file()
  assert 'outputs of 2 sources: variance ratio' in capsys.readouterr().out
  found = hub.cross_model_eval('source', 'target', small.tasks())
  assert set(found.scores) == {*small.tasks()}
  said = capsys.readouterr().out
  assert 'outputs of 2 sources: variance ratio' in said
  assert "right source minus another task's" in said


def test_layers_to_mask_that_are_none(hub):
  with pytest.raises(UserError, match=r'Layers \[1\] were asked for'):
    hub.mask_activated_neuron('target', small.tasks()[0], [1])
  with pytest.raises(UserError, match=r'Layers 0.3 .*is given as ratio='):
    hub.mask_activated_neuron('target', small.tasks()[0], 0.3)


def test_what_is_not_there(hub):
  with pytest.raises(UserError, match="no prompt of 'sst2' for 'target'"):
    hub.eval_prompt('target', small.tasks()[0], 'sst2')
  with pytest.raises(UserError, match="train_prompt got 'epochs'"):
    hub.train_prompt('target', small.tasks()[0], epochs=3)
