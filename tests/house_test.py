"""The rules of the house that a program can check (CONTRIBUTING.md)."""

import ast
import collections
import functools
import itertools
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_CODE = ('prompt_jax', 'tasks', 'launch', 'benchmarks')
_FILE_LINES, _FUNCTION_LINES, _GIN_LINES = 400, 60, 40
_DRAWERS = {'utils', 'util', 'common', 'helpers', 'helper', 'misc'}
_UNFINISHED = re.compile(r'\b(TODO|FIXME|XXX|NotImplementedError)\b')

# The import arrow. A part may import those listed after it, and itself.
_ARROW = {
  'prompt_jax.t5': (),
  'prompt_jax.prompts': ('t5',),
  'prompt_jax.inserts': ('t5',),
  'prompt_jax.prompted': ('t5', 'prompts', 'inserts'),
  'prompt_jax.training': ('t5', 'prompts', 'inserts', 'prompted'),
}
# Ground that every part stands on; it imports nothing but itself.
_GROUND = ('errors', 'params', 'typing', 'files', 'heap')

# Modules that read tasks. Nobody else imports these packages, neither
# itself nor through what it imports.
_HEAVY = {'tensorflow', 'seqio', 'tensorflow_datasets', 'tensorflow_text'}
_READERS = re.compile(
  r'prompt_jax\.(data|evaluate|eval|train|session|seeds|export_run|t5x)'
  r'|prompt_jax\.tasks(\..*)?'
)
# Imports one of them inside a function, once a command needs it.
_LATE = ('prompt_jax.cli',)


def _sources(*folders: str, suffix: str = '.py') -> list[pathlib.Path]:
  found = [f for name in folders for f in (_ROOT / name).rglob(f'*{suffix}')]
  return sorted(f for f in found if '__pycache__' not in f.parts)


def _here(file: pathlib.Path) -> str:
  return file.relative_to(_ROOT).as_posix()


@functools.cache
def _tree(file: pathlib.Path) -> ast.Module:
  return ast.parse(file.read_text(), _here(file))


def _module(file: pathlib.Path) -> str:
  """prompt_jax/t5/beam.py -> prompt_jax.t5.beam."""
  parts = file.relative_to(_ROOT).with_suffix('').parts
  parts = parts[:-1] if parts[-1] == '__init__' else parts
  return '.'.join(parts if parts[0] == 'prompt_jax' else ('prompt_jax', *parts))


_MODULES = {_module(file): file for file in _sources('prompt_jax', 'tasks')}


def _named(node: ast.AST) -> list[str]:
  """The dotted names that one import statement may mean."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if isinstance(node, ast.ImportFrom) and node.module:
    each = [f'{node.module}.{alias.name}' for alias in node.names]
    return [node.module, *each]
  return []


def _at_import(tree: ast.AST):
  """Statements that run when a module is imported."""
  for node in ast.iter_child_nodes(tree):
    if not isinstance(
      node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    ):
      yield node
      yield from _at_import(node)


@functools.cache
def _imports(module: str, late: bool) -> frozenset[str]:
  """What a module imports; `late` counts imports inside functions too."""
  tree = _tree(_MODULES[module])
  nodes = ast.walk(tree) if late else _at_import(tree)
  return frozenset(name for node in nodes for name in _named(node))


def _within(module: str, part: str) -> bool:
  return module == part or module.startswith(part + '.')


def _reached(module: str) -> set[str]:
  """Every module of ours that importing this one imports, and itself."""
  reached, pending = set(), [module]
  while pending:
    name = pending.pop()
    if name in _MODULES and name not in reached:
      reached.add(name)
      pending.extend(_imports(name, late=False))
      pending.append(name.rpartition('.')[0])  # a package comes first
  return reached


@pytest.mark.parametrize('part', _ARROW)
def test_imports_follow_the_arrow(part):
  may = [f'prompt_jax.{name}' for name in (*_ARROW[part], *_GROUND)]
  wrong = [
    f'{module} imports {name}'
    for module in _MODULES
    if _within(module, part)
    for name in sorted(_imports(module, late=True) & _MODULES.keys())
    if name != 'prompt_jax' and not any(_within(name, p) for p in [part, *may])
  ]
  assert not wrong, '\n'.join(wrong)


def test_the_ground_imports_only_itself():
  ground = {f'prompt_jax.{name}' for name in _GROUND}
  wrong = [
    f'{module} imports {name}'
    for module in sorted(ground & _MODULES.keys())
    for name in _imports(module, late=True) & _MODULES.keys()
    if name not in ground | {'prompt_jax'}
  ]
  assert not wrong, '\n'.join(wrong)


def test_only_readers_of_tasks_import_tensorflow():
  wrong = []
  for module in _MODULES:
    if _READERS.fullmatch(module):
      continue
    through = _reached(module)
    for name in sorted(through):
      heavy = {i.split('.')[0] for i in _imports(name, late=False)} & _HEAVY
      wrong.extend(f'{module} imports {h} through {name}' for h in heavy)
    heavy = {i.split('.')[0] for i in _imports(module, late=True)} & _HEAVY
    if heavy and module not in _LATE:
      wrong.append(f'{module} imports {heavy} inside a function')
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('file', _sources(*_CODE, 'tests'), ids=_here)
def test_length(file):
  lines = len(file.read_text().splitlines())
  assert lines <= _FILE_LINES, f'{_here(file)} has {lines} lines'


@pytest.mark.parametrize('file', _sources(*_CODE), ids=_here)
def test_size(file):
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = node.end_lineno - node.lineno + 1
      assert length <= _FUNCTION_LINES, (
        f'{_here(file)}:{node.lineno} {node.name} has {length} lines'
      )


@pytest.mark.parametrize('file', _sources('gin', suffix='.gin'), ids=_here)
def test_gin_size(file):
  lines = [line for line in file.read_text().splitlines() if line.strip()]
  assert len(lines) <= _GIN_LINES, f'{_here(file)} has {len(lines)} lines'


def test_gin_is_no_package():
  """Or `import gin` from a checkout would find it instead of gin-config."""
  assert not _sources('gin')


def _values(file: pathlib.Path) -> collections.Counter:
  """Lines of a gin file that bind or import something."""
  lines = (
    line.split('#')[0].rstrip() for line in file.read_text().splitlines()
  )
  return collections.Counter(line for line in lines if line)


def test_no_gin_file_repeats_another():
  """Two that share nine tenths of their lines are one file and an include."""
  files = {file: _values(file) for file in _sources('gin', suffix='.gin')}
  alike = []
  for (one, a), (two, b) in itertools.combinations(files.items(), 2):
    shared = (a & b).total() / max(a.total(), b.total())
    if shared >= 0.9:
      alike.append(f'{_here(one)} and {_here(two)} share {shared:.0%}')
  assert not alike, '\n'.join(alike)


def test_files_are_named_for_what_they_hold():
  named = [file.relative_to(_ROOT) for file in _sources(*_CODE, 'tests')]
  drawers = [
    str(file)
    for file in named
    if _DRAWERS & {*file.parts, *file.stem.split('_')}
  ]
  assert not drawers


def test_nothing_outside_gin_asks_for_a_method_by_name():
  """A method is three values; only its gin file knows what it is called."""
  names = {file.stem for file in _sources('gin/methods', suffix='.gin')}
  assert 'prompt' in names
  asks = []
  for file in _sources(*_CODE):
    for node in ast.walk(_tree(file)):
      if isinstance(node, ast.Compare):
        text = ast.unparse(node)
        parts = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
        constants = {part.value for part in parts}
        if constants & names and re.search(r'\bmethod\b', text):
          asks.append(f'{_here(file)}:{node.lineno} {text}')
  assert not asks, '\n'.join(asks)


def test_the_readme_has_a_row_for_each_method():
  readme = (_ROOT / 'README.md').read_text()
  (table,) = re.findall(r'^\| `gin/methods/` \|(?:.*\|\n)+', readme, re.M)
  rows = re.findall(r'^\| `(\w+)\.gin` \|', table, re.M)
  stems = sorted(file.stem for file in _sources('gin/methods', suffix='.gin'))
  assert sorted(rows) == stems


def test_training_names_no_method():
  stems = {file.stem for file in _sources('gin/methods', suffix='.gin')}
  names = stems | {part for name in stems for part in name.split('_')}
  # words that are in the name of a method and belong to none
  names -= {*'prompt full per layer both decoder multi task shared and'.split()}
  assert {'attempt', 'ia3', 'adapter', 'residual'} <= names
  for file in _sources('prompt_jax/training'):
    said = {*re.findall(r'[a-z0-9]+', file.read_text().lower())}
    assert not said & names, f'{_here(file)} names {sorted(said & names)}'


def _public(tree: ast.Module):
  """Public functions and classes of a module."""
  kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
  found = [node for node in tree.body if isinstance(node, kinds)]
  return [node for node in found if not node.name.startswith('_')]


@pytest.mark.parametrize('file', _sources('prompt_jax', 'tasks'), ids=_here)
def test_docstrings(file):
  tree = _tree(file)
  if not tree.body:
    return  # an empty __init__.py has nothing to say
  assert ast.get_docstring(tree), f'{_here(file)} has no docstring'
  silent = [n.name for n in _public(tree) if not ast.get_docstring(n)]
  assert not silent, f'{_here(file)}: no docstring at {silent}'


def test_nothing_is_unfinished():
  this = pathlib.Path(__file__)
  files = [*_sources(*_CODE, 'tests'), *_sources('gin', suffix='.gin')]
  found = [
    f'{_here(file)}:{number} {line.strip()}'
    for file in files
    if file != this
    for number, line in enumerate(file.read_text().splitlines(), 1)
    if _UNFINISHED.search(line)
  ]
  assert not found, '\n'.join(found)


def _raises(file: pathlib.Path) -> bool:
  """Whether a file raises a UserError."""
  raised = [n.exc for n in ast.walk(_tree(file)) if isinstance(n, ast.Raise)]
  return any(error and 'UserError(' in ast.unparse(error) for error in raised)


@functools.cache
def _test_imports() -> dict[pathlib.Path, set[str]]:
  """{test file: what it imports}."""
  return {
    file: {n for node in ast.walk(_tree(file)) for n in _named(node)}
    for file in _sources('tests')
  }


@pytest.mark.parametrize(
  'module', [m for m, file in _MODULES.items() if _raises(file)]
)
def test_errors_are_tested(module):
  """A module that raises a UserError has a test that asks for its words."""
  name = f'{module.rpartition(".")[2]}_test.py'
  imports = _test_imports().items()
  files = [f for f, names in imports if module in names or f.name == name]
  asks = re.compile(r'match=|str\((error|caught)|\bfails\(|refuses\(|\.err\b')
  assert any(asks.search(file.read_text()) for file in files), (
    f'{module} raises UserError; its tests {[_here(f) for f in files]} ask '
    'for no words of one'
  )
