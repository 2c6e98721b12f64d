"""The report in a real browser, as wide as a phone.

Needs the extra `browser`: pip install prompt_jax[browser].
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from prompt_jax import report
from tests import report_test

PHONE = 390  # CSS pixels
_ROOT = pathlib.Path(__file__).parents[1]


def has_browser() -> bool:
  """Whether Qt and its Chromium are installed."""
  try:
    return importlib.util.find_spec('PySide6.QtWebEngineCore') is not None
  except ModuleNotFoundError:
    return False


def opened(file: pathlib.Path, width: int) -> dict:
  """What `tests.browser` says of a file; skips without the browser."""
  if not has_browser():
    pytest.skip(
      'no browser: PySide6.QtWebEngineCore is missing (pip install '
      'prompt_jax[browser])'
    )
  screenshot = file.with_suffix('.png')
  command = [sys.executable, '-m', 'tests.browser', str(file), str(width)]
  done = subprocess.run(
    [*command, str(screenshot)],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
    timeout=180,
  )
  if 'cannot open shared object file' in done.stderr:
    pytest.skip(f'no browser: {done.stderr.strip().splitlines()[-1]}')
  assert done.returncode == 0, done.stderr
  assert screenshot.stat().st_size > 1000
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def page(tmp_path):
  """A report of every kind of file, long names and many columns among them."""
  report_test.write(tmp_path)
  study = tmp_path / 'a_folder_with_a_rather_long_name' / 'another_long_name'
  study.mkdir(parents=True)
  names = [f'a_task_with_a_long_name_{i}' for i in range(9)]
  rows = [
    [name, *(f'{7.3 * i + j}' for j in range(9))]
    for i, name in enumerate(names)
  ]
  lines = [','.join(row) for row in [['target', *names], *rows]]
  (study / 'matrix.csv').write_text('\n'.join(lines) + '\n')
  file = tmp_path / 'report.html'
  file.write_text(report.page(tmp_path))
  return file


def test_a_phone_shows_it_whole(page):
  seen = opened(page, PHONE)
  assert seen['console'] == []
  assert seen['requests'] == [page.as_uri()], 'something is fetched'
  assert seen['width'] <= PHONE, f'{seen["width"]} pixels across'
  text = page.read_text()
  assert len(seen['figures']) == text.count('<svg') > 3
  assert seen['tables'] == text.count('<table') and seen['text'] > 500
  for width, height in seen['figures']:
    assert 100 < width <= PHONE and height > 50


def test_the_browser_would_tell(tmp_path):
  """Of an error, a request and what is too wide."""
  file = tmp_path / 'bad.html'
  file.write_text(
    '<body><img src="missing.png"><div style="width:900px">wide</div>'
    '<script>console.error("bad")</script>'
  )
  seen = opened(file, PHONE)
  assert seen['width'] >= 900 and any('bad' in m for m in seen['console'])
  assert len(seen['requests']) == 2 and seen['figures'] == []
