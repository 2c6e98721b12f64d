"""Shelves: what is read, in which order, and what is refused."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.transfer import shelf

P, H = 3, 5


def write(folder, **prompts):
  for name, (shape, about) in prompts.items():
    saved.save(folder / f'{name}.npy', np.full(shape, 0.5, np.float32), about)


def fails(match, *args, **kwargs):
  with pytest.raises(UserError, match=match):
    shelf.read(*args, **kwargs)


def test_a_folder_is_read_by_name(tmp_path):
  write(tmp_path, b=((P, H), {'task': 'b'}), a=((P, H), {}))
  found = shelf.read(tmp_path)
  assert found.names == ('a', 'b') and found.prompts.shape == (2, P, H)
  assert (found.length, found.width) == (P, H)
  assert found.sidecars == ({}, {'task': 'b'})


def test_an_archive_and_a_mapping_keep_their_order(tmp_path):
  prompts = {'z': np.zeros((P, H), np.float16), 'a': np.ones((P, H))}
  np.savez(tmp_path / 'all.npz', **prompts)
  found = shelf.read(tmp_path / 'all.npz')
  assert found.names == ('z', 'a') and found.prompts.dtype == np.float32
  write(tmp_path, b=((P, H), {}), a=((P, H), {}))
  both = {'two': tmp_path / 'b.npy', 'one': str(tmp_path / 'a.npy')}
  assert shelf.read(both).names == ('two', 'one')


def test_selection_and_control():
  found = shelf.of({'a': np.zeros((P, H)), 'b': np.ones((P, H))})
  assert found.only(['b']).prompts.mean() == 1
  random = found.plus_random(7)
  assert random.names == ('a', 'b', 'random') and len(random.sidecars) == 3
  control = random.prompt('random')
  assert 0 <= control.min() < control.max() < 1
  np.testing.assert_array_equal(control, found.plus_random(7).prompts[2])


def test_prompts_keep_their_place(tmp_path):
  write(tmp_path, a=((P, H), {'stack': 'decoder'}))
  found = shelf.read(tmp_path)
  fields, own = found.attach()
  assert list(fields) == ['decoder_prompt']
  assert list(own) == ['decoder/prompt/prompts']


def test_empty_or_missing_folder(tmp_path):
  fails(r'no \.npy file in .*; expected a saved prompt a task', tmp_path)
  fails('neither a folder nor', tmp_path / 'absent')
  with pytest.raises(UserError, match='expected at least one'):
    shelf.of({})


def test_mixed_widths_and_lengths(tmp_path):
  write(tmp_path, a=((P, H), {}), b=((P, H + 2), {}))
  fails(r'b\.npy is a prompt \[3, 7\].*\[3, 5\].*equally wide', tmp_path)
  write(tmp_path, b=((P + 2, H), {}))
  fails('equally long', tmp_path)


def test_other_bases(tmp_path):
  write(
    tmp_path,
    a=((P, H), {'base_digest': 'x'}),
    b=((P, H), {}),
    c=((P, H), {'base_digest': 'y'}),
  )
  fails(r'c\.npy has base_digest y and .*a\.npy has x', tmp_path)
  assert len(shelf.read(tmp_path, allow_other_base=True)) == 3


def test_a_task_without_a_prompt():
  found = shelf.of({'sst2': np.zeros((P, H)), 'mnli': np.zeros((P, H))})
  with pytest.raises(UserError, match="no prompt of 'sst'.*Nearest: sst2"):
    found.only(['sst'])


def test_archives_that_hold_something_else(tmp_path):
  np.savez(tmp_path / 'odd.npz', a=np.zeros((P, H), int))
  fails('holds a int64', tmp_path / 'odd.npz')
  (tmp_path / 'text.npz').write_text('no')
  fails('cannot be read as an .npz', tmp_path / 'text.npz')
