"""A base and the prompts that are its own."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import base as bases
from prompt_jax.transfer import shelf
from tests import tiny
from tests.transfer import small


def test_prompts_by_task_id(tmp_path):
  held = shelf.read(small.write(tmp_path))
  model, flat = small.base().prompted(held)
  np.testing.assert_array_equal(flat['encoder/prompt/prompts'], held.prompts)
  assert model.encoder_prompt().num_tasks == len(held)
  assert 'encoder/prompt/prompts' not in small.base().flat


def test_prompts_of_another_base(tmp_path):
  held = shelf.read(small.write(tmp_path, base_digest='another'))
  with pytest.raises(UserError, match='base_digest another, here it is'):
    small.base().prompted(held)
  assert small.base().prompted(held, allow_other_base=True)


def test_prompts_of_another_width(tmp_path):
  held = shelf.read(small.write(tmp_path, shape=(3, small.H + 2)))
  with pytest.raises(UserError, match=r'expected \[P, 7\].*transfer project'):
    small.base().prompted(held)


def test_what_a_prompt_says_of_it():
  found = small.base().sidecar()
  assert found['base'] == 'base' and len(found['base_digest']) == 16
  with pytest.raises(UserError, match='absent'):
    bases.load(f'{tiny.base()}/absent')
