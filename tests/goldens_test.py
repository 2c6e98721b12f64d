"""The parameters of every method: path, shape, dtype, logical axes, trains.

    tests/goldens/<method>.json   {path: [shape, dtype, axes, trains]}

A test never writes one; `make goldens` does, and its diff is reviewed:
`python -m tests.goldens_test --update`.
"""

import json
import pathlib
import sys
import tempfile

import pytest

from prompt_jax import ginfiles, params
from prompt_jax.training import state as states
from tests import miniature

_FOLDER = pathlib.Path(__file__).parent / 'goldens'
_METHODS = ginfiles.available('methods')


def _golden(method: str) -> pathlib.Path:
  return _FOLDER / f'{pathlib.Path(method).stem}.json'


def _leaves(folder: pathlib.Path, method: str, macros) -> dict[str, list]:
  """{path: [shape, dtype, axes, trains]} of a method on the small model."""
  run = miniature.configured(
    *miniature.command(folder, [method], macros, folder / 'run')
  )
  shapes, axes = states.abstract(run.model)
  rates = params.split(shapes, run.table)[2]
  return {
    path: [list(x.shape), str(x.dtype), list(axes[path]), path in rates]
    for path, x in shapes.items()
  }


def difference(stored, found) -> list[str]:
  """Lines on how two trees of leaves differ: missing, extra, changed."""
  lines = [f'missing {path}' for path in sorted(stored.keys() - found.keys())]
  for path in sorted(found.keys() - stored.keys()):
    lines.append(f'extra   {path} {found[path]}')
  for path in sorted(stored.keys() & found.keys()):
    if stored[path] != found[path]:
      lines.append(f'changed {path} {stored[path]} -> {found[path]}')
  return lines


def update() -> None:
  """Writes the golden of every method, and removes those of no method."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    macros = miniature.write(folder)
    found = {each: _leaves(folder, each, macros) for each in _METHODS}
  for path in set(_FOLDER.glob('*.json')) - {_golden(m) for m in _METHODS}:
    path.unlink()
  for method, leaves in found.items():
    rows = [f'{json.dumps(k)}: {json.dumps(v)}' for k, v in leaves.items()]
    _FOLDER.mkdir(exist_ok=True)
    _golden(method).write_text('{\n ' + ',\n '.join(rows) + '\n}\n')


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  return folder, miniature.write(folder)


@pytest.mark.parametrize('method', _METHODS)
def test_parameters_are_those_of_the_golden(method, small):
  folder, macros = small
  golden = _golden(method)
  assert golden.is_file(), f'no {golden.name}: run `make goldens`, review it'
  lines = difference(
    json.loads(golden.read_text()), _leaves(folder, method, macros)
  )
  assert not lines, '\n'.join(['run `make goldens` if this is meant:', *lines])


def test_every_golden_has_its_method():
  stored = {path.name for path in _FOLDER.glob('*.json')}
  assert stored == {_golden(method).name for method in _METHODS}


def test_a_difference_is_told():
  leaf, other = [[2], 'float32', ['embed'], True], [[2], 'float32', [], True]
  stored, found = {'a': leaf, 'b': leaf, 'c': leaf}, {'b': leaf, 'c': other}
  assert difference(stored, found | {'d': leaf}) == [
    'missing a',
    f'extra   d {leaf}',
    f'changed c {leaf} -> {other}',
  ]
  assert difference(stored, stored) == []


if __name__ == '__main__':
  if sys.argv[1:] != ['--update']:
    sys.exit('expected `python -m tests.goldens_test --update`')
  update()
