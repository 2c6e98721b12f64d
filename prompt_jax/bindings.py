"""Statements of gin files, each with its file and line.

Gin reports a mistake late and at length. This reads the same text with gin's
own parser but keeps references and macros as names, so that whatever is wrong
can be worded in one paragraph before gin evaluates anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import importlib.util  # gin 0.5.0 uses importlib.util and does not import it
import inspect
import pathlib
import pkgutil
import sys
import tokenize
from typing import Any

import gin
from gin import config_parser

from prompt_jax import params
from prompt_jax.errors import UserError

# T5X counts TRAIN_STEPS from the base's step and calls ours by the longer name.
ALIASES = {'TRAIN_STEPS_RELATIVE': 'TRAIN_STEPS'}
DYNAMIC = 'from __gin__ import dynamic_registration'
_COMMAND_LINE = 'the command line'


@dataclasses.dataclass(frozen=True)
class _Reference:
  """@scope/module.fn, read but not looked up."""

  selector: str


@dataclasses.dataclass(frozen=True)
class _Macro:
  """%NAME, read but not looked up."""

  name: str

  @property
  def is_required(self) -> bool:
    return self.name in ('gin.REQUIRED', 'REQUIRED')


@dataclasses.dataclass(frozen=True)
class _Unread:
  """Stands for a module that is not imported: see `Imports.without`."""

  module: str


class _Delegate(config_parser.ParserDelegate):
  """Lets gin's parser read a file without importing what it names."""

  def configurable_reference(self, scoped_selector, evaluate):
    return _Reference(scoped_selector.rsplit('/', 1)[-1])

  def macro(self, name):
    return _Macro(ALIASES.get(name, name))


@dataclasses.dataclass(frozen=True)
class Binding:
  """One 'name = value'; two with one key bind the same thing."""

  key: tuple[str, ...]  # (NAME,) or (scope, module, function, parameter)
  name: str  # as written
  value: Any
  where: str  # '<file>:<line>'

  @property
  def is_macro(self) -> bool:
    return len(self.key) == 1

  @property
  def is_required(self) -> bool:
    return isinstance(self.value, _Macro) and self.value.is_required

  def macros(self) -> list[str]:
    """Names of the macros that this binding reads."""
    leaves = [leaf for leaf in _leaves(self.value) if isinstance(leaf, _Macro)]
    return [leaf.name for leaf in leaves if not leaf.is_required]


@dataclasses.dataclass
class Imports:
  """What the import statements of all files read so far provide.

  Attributes:
    symbols, lines: what they bind, and the statements.
    selectors: {selector that the files mention: what it names}.
    without: modules left alone. Neither they nor what lies in them is
      imported, and the files are read as if without whatever names them.
  """

  symbols: dict[str, Any] = dataclasses.field(default_factory=dict)
  lines: list[str] = dataclasses.field(default_factory=list)
  selectors: dict[str, Any] = dataclasses.field(default_factory=dict)
  without: tuple[str, ...] = ()

  def left_alone(self) -> list[str]:
    """Names of the modules that the files import and `without` leaves alone."""
    found = self.symbols.values()
    return sorted({each.module for each in found if isinstance(each, _Unread)})


def _leaves(value: Any) -> Iterator[Any]:
  if isinstance(value, Mapping):
    value = list(value.items())
  if isinstance(value, list | tuple):
    for part in value:
      yield from _leaves(part)
  else:
    yield value


def _statements(text: str, name: str) -> list[Any]:
  """All statements of a text, in order."""
  try:
    return list(config_parser.ConfigParser(text, _Delegate()))
  except SyntaxError as error:
    line, reason = error.lineno, error.msg
  except tokenize.TokenError as error:
    reason, (line, _) = error.args
  raise UserError(
    f'{name}:{line} is not gin: {" ".join(str(reason).split())} Expected '
    "'module.function.parameter = value' or 'NAME = value', where a value is "
    'a Python literal, @function, @function() or %NAME; strings take quotes.'
  )


def _statement(binding: str) -> tuple[str, Any]:
  """One --gin.NAME=VALUE as (gin text, its statement)."""
  name, equals, value = (part.strip() for part in binding.partition('='))
  shown = f'--gin.{binding}'
  if not (name and equals and value):
    raise UserError(
      f'{shown!r} on the command line is not a binding; expected '
      '--gin.NAME=VALUE (for an empty string: --gin.NAME="\'\'").'
    )
  name = ALIASES.get(name, name)
  try:
    text = f'{name} = {value}'
    statements = _statements(text, shown)
  except UserError:
    if value[0] in '\'"[{(@%':  # meant as gin, so a slip and not a string
      raise
    if value.lower() in ('true', 'false', 'none', 'null'):
      raise UserError(
        f'{shown!r} on the command line: {value} is neither a string in '
        'quotes nor a Python literal; expected True, False or None.'
      ) from None
    text = f'{name} = {value!r}'
    statements = _statements(text, shown)
  binding_only = isinstance(statements[0], config_parser.BindingStatement)
  if len(statements) != 1 or not binding_only:
    raise UserError(
      f'{shown!r} on the command line is more than one binding; expected a '
      'single --gin.NAME=VALUE. Repeat the flag for each.'
    )
  return text, statements[0]


def _is_unread(statement, symbols, imports: Imports) -> bool:
  """Whether a statement is about a module to be left alone.

  An import of one is kept in mind; a macro is about what its value names.
  """
  if isinstance(statement, config_parser.ImportStatement):
    inside = (
      f'{statement.module}.'.startswith(f'{m}.') for m in imports.without
    )
    # without a name of its own it binds the package, which others need
    if not (any(inside) and (statement.is_from or statement.alias)):
      return False
    symbols[statement.bound_name()] = _Unread(statement.module)
    imports.symbols.setdefault(
      statement.bound_name(), symbols[statement.bound_name()]
    )
    return True
  if isinstance(statement, config_parser.IncludeStatement):
    return False
  selectors = [statement.selector]
  if isinstance(statement, config_parser.BindingStatement):
    if not statement.arg_name:
      leaves = _leaves(statement.value)
      selectors = [x.selector for x in leaves if isinstance(x, _Reference)]
  heads = [symbols.get(selector.split('.')[0]) for selector in selectors]
  return any(isinstance(head, _Unread) for head in heads)


def _import(statement, symbols, imports: Imports, where: str) -> None:
  """Runs one import statement and keeps what it binds."""
  if statement.format() == DYNAMIC:
    symbols['gin'] = gin.config
    return
  if 'gin' not in symbols:
    raise UserError(
      f'{where}: `{statement.format()}` comes before `{DYNAMIC}`; expected '
      'that line first.'
    )
  try:
    module = importlib.import_module(statement.module)
  except ImportError as error:
    parent, _, name = statement.module.rpartition('.')
    folders = getattr(sys.modules.get(parent), '__path__', [])
    names = [found.name for found in pkgutil.iter_modules(folders)]
    close = ', '.join(params.nearest(name, names))
    raise UserError(
      f'{where} imports {statement.module}: {error}. Expected a module that '
      'can be imported here.' + (f' Nearest: {close}.' if close else '')
    ) from error
  if not (statement.is_from or statement.alias):
    module = sys.modules[statement.module.split('.')[0]]
  symbols[statement.bound_name()] = module
  # where two files give one name to two modules the first one keeps it
  if imports.symbols.setdefault(statement.bound_name(), module) is module:
    imports.lines.append(statement.format())


def _resolve(selector: str, symbols: Mapping[str, Any], where: str) -> Any:
  """The function or class that a selector names."""
  head, *rest = selector.split('.')
  if head not in symbols:
    known = ', '.join(sorted(symbols.keys() - {'gin'})) or 'nothing'
    raise UserError(
      f'{selector!r} ({where}): no import gives {head!r}; imported here: '
      f'{known}. Expected the file to begin with `{DYNAMIC}`, then an import '
      f'of {head!r}.'
    )
  target, path = symbols[head], head
  if isinstance(target, _Unread):
    raise UserError(
      f'{selector!r} ({where}) is in {target.module}, which this command does '
      'not read; expected settings of what it does read. Leave it out.'
    )
  for part in rest:
    if not hasattr(target, part):
      names = [name for name in dir(target) if not name.startswith('_')]
      names = [name for name in names if callable(getattr(target, name))]
      close = ', '.join(params.nearest(part, names))
      raise UserError(
        f'{selector!r} ({where}): {path} has no {part!r}. Nearest: {close}.'
      )
    target, path = getattr(target, part), f'{path}.{part}'
  if not callable(target):
    raise UserError(
      f'{selector!r} ({where}) is a {type(target).__name__}; expected a '
      'function or a class.'
    )
  return target


def _checked(target: Any, parameter: str, name: str, where: str) -> None:
  """Refuses a parameter that the function or class does not take."""
  try:
    known = inspect.signature(target).parameters
  except ValueError:  # builtins such as dict do not tell
    return
  if any(each.kind is each.VAR_KEYWORD for each in known.values()):
    return
  if parameter not in known:
    close = ', '.join(params.nearest(parameter, list(known)))
    raise UserError(
      f'{name!r} ({where}): {target.__name__} has no parameter '
      f'{parameter!r}. Nearest: {close}.'
    )


def _bound(statement, symbols, imports: Imports, where: str) -> Binding:
  """Looks up what one binding statement names."""
  for leaf in _leaves(statement.value):
    if isinstance(leaf, _Reference):
      target = _resolve(leaf.selector, symbols, where)
      imports.selectors[leaf.selector] = target
  scope, selector, parameter = statement[:3]
  prefix = f'{scope}/' if scope else ''
  if not parameter:
    name = prefix + selector
    key: tuple[str, ...] = (ALIASES.get(name, name),)
  else:
    name = f'{prefix}{selector}.{parameter}'
    target = _resolve(selector, symbols, where)
    _checked(target, parameter, name, where)
    imports.selectors[selector] = target
    key = (scope, target.__module__, target.__qualname__, parameter)
  return Binding(key, name, statement.value, where)


def read(
  path: str,
  imports: Imports,
  locate: Callable[[str], str],
  trail: tuple[str, ...] = (),
) -> tuple[list[Binding], list[str]]:
  """One file and, where they stand, the files that it includes.

  Args:
    path: an existing file.
    imports: collects what the files import and mention.
    locate: the path of an included name; raises UserError if there is none.
    trail: the files that include this one, outermost first.
  Returns: (bindings in the order in which gin meets them, texts for gin to
    parse in order, none with an include).
  Raises: UserError for bad syntax, an unknown module, function, class or
    parameter, and for a circle of includes; each with file and line.
  """
  if path in trail:
    raise UserError(
      f'{trail[-1]} includes {path}, which includes it in turn '
      f'({" -> ".join((*trail, path))}). Remove one include.'
    )
  lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  symbols: dict[str, Any] = {}
  bindings: list[Binding] = []
  texts: list[str] = []
  seen: list[str] = []  # import statements
  head, start = '', 0  # of the text since the last include
  statements = _statements('\n'.join(lines), path)
  ends = [each.location.line_num - 1 for each in statements[1:]]
  for statement, end in zip(statements, [*ends, len(lines)], strict=True):
    number = statement.location.line_num
    if _is_unread(statement, symbols, imports):
      lines[number - 1 : end] = [''] * (end - number + 1)
    elif isinstance(statement, config_parser.IncludeStatement):
      # gin would look for it in its own way, so it gets the parts instead
      inner = read(locate(statement.filename), imports, locate, (*trail, path))
      bindings += inner[0]
      texts += ['\n'.join([head, *lines[start : number - 1]]), *inner[1]]
      head, start = '\n'.join(seen), number
    elif isinstance(statement, config_parser.ImportStatement):
      _import(statement, symbols, imports, f'{path}:{number}')
      seen.append(statement.format())
    elif isinstance(statement, config_parser.BindingStatement):
      bindings.append(_bound(statement, symbols, imports, f'{path}:{number}'))
    else:
      _resolve(statement.selector, symbols, f'{path}:{number}')
  return bindings, [*texts, '\n'.join([head, *lines[start:]])]


def read_command_line(
  bindings: Sequence[str], imports: Imports
) -> tuple[list[Binding], list[str]]:
  """Bindings of the command line.

  Args:
    bindings: 'NAME=VALUE' or 'module.function.parameter=VALUE'.
    imports: what the files import; a function that they mention can be named
      by the end of its selector.
  Returns: (the bindings, the gin text of each).
  Raises: UserError for bad syntax, an unknown function or parameter.
  """
  found, texts = [], []
  symbols = {'gin': gin.config, **imports.symbols}
  for binding in bindings:
    text, statement = _statement(binding)
    selector = statement.selector
    if statement.arg_name and selector.split('.')[0] not in symbols:
      # short for the one function of that name that the files mention
      known = imports.selectors
      full = [each for each in known if each.endswith('.' + selector)]
      if len({id(known[each]) for each in full}) != 1:
        close = ', '.join(params.nearest(selector, full or sorted(known)))
        raise UserError(
          f"'--gin.{binding}' on the command line: {selector!r} ends the name "
          f'of {len(full)} functions in the gin files given; expected one. '
          f'Nearest: {close}.'
        )
      text = text.replace(selector, full[0], 1)
      statement = statement._replace(selector=full[0])
    found.append(_bound(statement, symbols, imports, _COMMAND_LINE))
    texts.append(text)
  return found, texts
