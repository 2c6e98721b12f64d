"""A command asks for huge pages once, and loses nothing by it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from prompt_jax import huge_pages

_ROOT = pathlib.Path(__file__).parents[1]
_TOLD = """
import json, os, sys
from prompt_jax import huge_pages

huge_pages.restart()
print(json.dumps([sys.argv[1:], os.environ['GLIBC_TUNABLES']]))
"""


@pytest.fixture
def kernel(monkeypatch, tmp_path):
  """Sets what the kernel offers."""

  def offers(text):
    file = tmp_path / 'enabled'
    file.write_text(text)
    monkeypatch.setattr(huge_pages, '_KERNEL', file)
    monkeypatch.setattr(os, 'confstr', lambda name: 'glibc 2.36')

  return offers


def test_asks_beside_what_the_user_set(kernel):
  kernel('always [madvise] never')
  asked = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
  assert huge_pages.variables({}) == asked
  other = {'GLIBC_TUNABLES': 'glibc.malloc.arena_max=3'}
  assert huge_pages.variables(other) == {
    'GLIBC_TUNABLES': 'glibc.malloc.arena_max=3:glibc.malloc.hugetlb=1'
  }


@pytest.mark.parametrize('text', ['[always] madvise never', 'madvise [never]'])
def test_does_not_ask_in_vain(kernel, text):
  kernel(text)
  assert huge_pages.variables({}) == {}


def test_leaves_what_the_user_said_of_huge_pages(kernel):
  kernel('always [madvise] never')
  assert (
    huge_pages.variables({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}) == {}
  )


@pytest.mark.parametrize('libc', ['glibc 2.34', 'musl 1.2', 'glibc', None])
def test_other_libraries_are_left_alone(kernel, monkeypatch, libc):
  kernel('always [madvise] never')

  def confstr(name):
    if libc is None:
      raise ValueError(name)
    return libc

  monkeypatch.setattr(os, 'confstr', confstr)
  assert huge_pages.variables({}) == {}


def test_without_a_kernel_that_has_them(kernel, monkeypatch, tmp_path):
  kernel('always [madvise] never')
  monkeypatch.setattr(huge_pages, '_KERNEL', tmp_path / 'absent')
  assert huge_pages.variables({}) == {}


def test_the_process_that_begins_again_has_the_same_arguments():
  if not huge_pages.variables({}):
    pytest.skip('this system has no huge pages on request')
  variables = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  given = ['two words', '--gin.X="\'quoted\'"', '']
  done = subprocess.run(
    [sys.executable, '-c', _TOLD, *given],
    env=variables,
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(done.stdout) == [given, 'glibc.malloc.hugetlb=1']


def test_the_command_asks_before_it_imports_jax():
  code = (
    'import sys, prompt_jax.__main__ as m; m.huge_pages.restart = lambda: '
    "print('jax' in sys.modules); sys.argv[1:] = ['--help']; m.command()"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=_ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('False\nusage: prompt-jax')
