"""The prompt inside a T5X checkpoint."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.interop import t5x_prompt
from tests.t5.bases import weights, write_native

ROWS = np.arange(35, dtype=np.float32).reshape(5, 7)
THEIRS = 'encoder/prompt/prompt/prompt'


@pytest.mark.parametrize('path', [THEIRS, 'encoder/prompt/prompt'])
def test_the_prompt_is_found(tmp_path, path):
  folder = write_native(tmp_path / 'a', {**weights(), path: ROWS})
  found = t5x_prompt.read(folder)
  np.testing.assert_array_equal(found.array, ROWS)
  assert found.about == {'step': 41}


def test_that_of_the_decoder(tmp_path):
  arrays = {THEIRS: ROWS, 'decoder/prompt/prompt/prompt': -ROWS}
  folder = write_native(tmp_path / 'a', arrays)
  with pytest.raises(UserError, match=r'holds 2 prompts.*Name it with --key'):
    t5x_prompt.read(folder)
  found = t5x_prompt.read(folder, 'decoder/prompt/prompt/prompt')
  np.testing.assert_array_equal(found.array, -ROWS)
  assert found.about['stack'] == 'decoder'


def test_a_base_has_none(tmp_path):
  folder = write_native(tmp_path / 'a', weights())
  with pytest.raises(UserError, match='holds 0 prompts; expected one'):
    t5x_prompt.read(folder)
  with pytest.raises(UserError, match="no array 'encoder/promt'"):
    t5x_prompt.read(folder, 'encoder/promt')
