"""Files of activation scores: round trips, the CSV of others, bad ones."""

import numpy as np
import pytest

from prompt_jax import scores
from prompt_jax.errors import UserError
from tests import models
from tests.t5.submodel_test import scores_of


def test_round_trip(tmp_path):
  given = scores_of(models.config())
  path = scores.save(tmp_path / 'deep' / 'task.npz', given, {'task': 'task'})
  found, sidecar = scores.load(path, 2)
  assert found.keys() == given.keys()
  for stack, rows in given.items():
    np.testing.assert_array_equal(found[stack], rows.astype(np.float32))
  assert sidecar == {'task': 'task', 'digest': scores.digest(found)}
  names = sorted(file.name for file in (tmp_path / 'deep').iterdir())
  assert names == ['task.json', 'task.npz']
  (tmp_path / 'deep' / 'task.json').unlink()
  assert scores.load(path, 2)[1] is None


def test_rows_of_a_csv(tmp_path):
  rows = np.random.default_rng(5).random((5, 3)).astype(np.float32)
  np.savetxt(tmp_path / 'scores.csv', rows, delimiter=',')
  found, sidecar = scores.load(tmp_path / 'scores.csv', 2)
  np.testing.assert_array_equal(found['encoder'], rows[:2])
  np.testing.assert_array_equal(found['decoder'], rows[2:])
  assert sidecar is None


def test_files_that_hold_something_else(tmp_path):
  def fails(name, text):
    with pytest.raises(UserError, match=text):
      scores.load(tmp_path / name, 2)

  fails('none.npz', 'does not exist; expected the activation scores')
  (tmp_path / 'torn.npz').write_bytes(b'PK\x03\x04')
  fails('torn.npz', 'holds no activation scores')
  np.savez(tmp_path / 'other.npz', prompt=np.ones(3))
  fails('other.npz', 'it has neither of encoder, decoder')
  np.save(tmp_path / 'one.npy', np.ones(3))
  fails('one.npy', 'it is one array, not an archive')
  (tmp_path / 'text.csv').write_text('a,b\n')
  fails('text.csv', 'a .csv with a row for each layer')
  scores.save(tmp_path / 'good.npz', {'encoder': np.ones((2, 3))}, {})
  (tmp_path / 'good.json').write_text('{')
  fails('good.npz', 'Make it again')
