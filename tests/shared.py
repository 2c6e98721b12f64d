"""Where tests find golden data and labelled tasks; skips where absent."""

import os
import pathlib

import pytest

_SHARED = pathlib.Path(__file__).parents[2] / 'shared'


def _folder(root: pathlib.Path, name: str, setting: str) -> pathlib.Path:
  folder = root / name
  if not folder.is_dir():
    pytest.skip(f'no {folder} here; set {setting} to a copy')
  return folder


def fixtures(name: str) -> pathlib.Path:
  """A folder of golden arrays, from PROMPT_JAX_FIXTURES."""
  root = os.environ.get('PROMPT_JAX_FIXTURES', _SHARED / 'fixtures')
  return _folder(pathlib.Path(root).resolve(), name, 'PROMPT_JAX_FIXTURES')


def shared(name: str) -> pathlib.Path:
  """Another folder beside the fixtures (data, third_party)."""
  root = os.environ.get('PROMPT_JAX_SHARED', _SHARED)
  return _folder(pathlib.Path(root), name, 'PROMPT_JAX_SHARED')
