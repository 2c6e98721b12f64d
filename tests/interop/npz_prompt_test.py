"""A prompt in an archive of NumPy."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.interop import npz_prompt

ROWS = np.arange(35, dtype=np.float32).reshape(5, 7)


def test_one_or_a_named_one(tmp_path):
  one, two = str(tmp_path / 'one.npz'), str(tmp_path / 'two.npz')
  np.savez(one, sst2=ROWS)
  np.savez(two, sst2=ROWS, mnli=-ROWS)
  np.testing.assert_array_equal(npz_prompt.read(one).array, ROWS)
  np.testing.assert_array_equal(npz_prompt.read(two, 'mnli').array, -ROWS)
  with pytest.raises(UserError, match=r'holds 2 arrays; expected one prompt'):
    npz_prompt.read(two)
  with pytest.raises(UserError, match="none of them 'mli'.*Nearest: mnli"):
    npz_prompt.read(two, 'mli')


def test_what_is_not_read(tmp_path):
  path = tmp_path / 'a.npz'
  np.savez(path, a=np.array([{}], dtype=object))
  with pytest.raises(UserError, match='is not a readable .npz file'):
    npz_prompt.read(str(path))
  path.write_bytes(b'PK\x03\x04')
  with pytest.raises(UserError, match='is not a readable .npz file'):
    npz_prompt.read(str(path))
