"""Parts of a run that do not fit are told; more in bad_input_test.py."""

import pytest

from prompt_jax import fit
from prompt_jax.errors import UserError
from tests import tiny


def test_a_prompt_without_rows(tmp_path):
  tiny.write_files(tmp_path / 'files')
  made = tiny.configured(tmp_path / 'files', tmp_path / 'run')
  fit.check(made)
  made.model = tiny.model(length=0)
  with pytest.raises(UserError, match='Prompt has 0 rows; expected a whole'):
    fit.check(made)
