"""Bugs that tests plant, and the note of what caught each."""

from collections.abc import Sequence
import os
import re

import pytest

from tests import checks, miniature


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  return folder, miniature.write(folder)


@pytest.fixture
def setup(small, tmp_path):
  """`(method) -> Setup`, made while the bug is planted."""
  folder, macros = small

  def make(method):
    command = miniature.command(folder, [method], macros, tmp_path / 'run')
    return checks.Setup(*command)

  return make


@pytest.fixture(scope='module')
def sound(small):
  """`(method, folder) -> Setup` for bugs outside of what is compiled."""
  folder, macros = small
  made = {}

  def fork(method, run_folder):
    command = miniature.command(folder, [method], macros, folder / 'sound')
    if method not in made:
      made[method] = checks.Setup(*command)
    made[method].parse()
    return made[method].fork(run_folder)

  return fork


caught: list[tuple[str, str]] = []  # (bug, what caught it)


def fails(check, *args, **settings):
  """Runs a check that has to fail, and notes that it did."""
  with pytest.raises((AssertionError, pytest.fail.Exception)):
    check(*args, **settings)
  test = os.environ['PYTEST_CURRENT_TEST'].partition('::')[2].split(' (')[0]
  bug = re.search(r'\[(.*)\]$', test) if '_method[' in test else None
  bug = bug[1] if bug else test.removeprefix('test_').replace('_', ' ')
  caught.append((bug, f'{check.__module__}.{check.__name__}'))


def table(found: Sequence[tuple[str, str]]) -> str:
  """A line a bug that was planted, with what caught it."""
  width = max(len(bug) for bug, _ in found)
  return '\n'.join(f'{bug:<{width}}  {by}' for bug, by in found)
