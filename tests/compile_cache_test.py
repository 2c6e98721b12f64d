"""Where compiled programs are kept, and that tests keep none at home."""

import os
import pathlib

import jax
import pytest

from prompt_jax import compile_cache


@pytest.fixture
def asked(monkeypatch):
  """What JAX is told, which stays as it is."""
  told = {}
  monkeypatch.setattr(jax.config, 'update', told.__setitem__)
  return told


def test_programs_are_kept_in_the_home_of_the_user(
  asked, monkeypatch, tmp_path
):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  compile_cache.keep()
  where = pathlib.Path(asked['jax_compilation_cache_dir'])
  assert where.is_dir() and where.parent == tmp_path / 'prompt_jax/compiled'
  assert where == compile_cache.folder()
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  home = tmp_path / 'home/.cache/prompt_jax/compiled'
  assert compile_cache.folder().parent == home


def test_the_user_may_choose_where(asked):
  assert os.environ['JAX_COMPILATION_CACHE_DIR']  # see conftest
  compile_cache.keep()
  assert 'jax_compilation_cache_dir' not in asked


def test_a_home_that_cannot_be_written_is_no_error(
  asked, monkeypatch, tmp_path
):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  compile_cache.keep()
  assert not asked
