"""Gin files: finds them, refuses what cannot be meant, and lets gin parse.

Files and command line are read twice: by `bindings`, which knows the file and
line of every statement, and by gin. Every file names its code by import
statements (dynamic registration), so the package holds no decorators.
"""

from collections.abc import Mapping, Sequence
import difflib
import importlib.util  # noqa: F401  gin 0.5.0 uses it without importing it
import os
import pathlib

import gin

from prompt_jax import bindings as statements
from prompt_jax import params
from prompt_jax.bindings import Binding
from prompt_jax.errors import UserError

_LISTED = 8  # keeps an error under twelve lines


def _root() -> pathlib.Path:
  """The folder of gin files: in the wheel, or beside it in a checkout."""
  package = pathlib.Path(__file__).parent
  inside = package / 'gin'
  return inside if inside.is_dir() else package.parent / 'gin'


def available(folder: str) -> list[str]:
  """Names of the gin files that come with the package.

  Args:
    folder: one of its folders, such as 'methods'; its own are left out.
  Returns: sorted names that `find` knows, such as 'methods/prompt.gin'.
  """
  root = _root()
  paths = (root / folder).glob('*.gin')
  return sorted(path.relative_to(root).as_posix() for path in paths)


def find(name: str, search_paths: Sequence[str] = ()) -> str:
  """The path of a gin file.

  Looks at the name itself (a path, or relative to the working directory),
  then in each search path, then in the package's own folder.

  Args:
    name: such as 'models/t5_1_1_base.gin' or a path.
    search_paths: folders, first match wins.
  Returns: the path of an existing file.
  Raises: UserError with the nearest names.
  """
  root = _root()
  for folder in ('', *search_paths, root):
    path = os.path.join(folder, name)
    if os.path.isfile(path):
      return path
  names = [path.relative_to(root).as_posix() for path in root.rglob('*.gin')]
  for folder in search_paths:
    names.extend(path.name for path in pathlib.Path(folder).glob('*.gin'))
  looked = ', '.join([os.getcwd(), *map(str, search_paths), str(root)])
  close = ', '.join(params.nearest(name, sorted(names)))
  raise UserError(
    f'No gin file {name!r}; expected a path, or a name below one of: {looked}. '
    f'Nearest: {close}. Add folders with --gin_search_paths.'
  )


def flags_to_bindings(argv: Sequence[str]) -> list[str]:
  """Rewrites --gin.NAME=VALUE into --gin_bindings=NAME=VALUE.

  Args:
    argv: the command line, program name included.
  Returns: a new list; other arguments are untouched.
  Raises: UserError if such a flag has no '='.
  Source: the command line of T5X.
  """
  rewritten = []
  for argument in argv:
    if argument.startswith('--gin.'):
      if '=' not in argument:
        raise UserError(
          f'{argument!r} on the command line has no value; expected '
          f'{argument}=VALUE, with no space around the equals sign.'
        )
      argument = '--gin_bindings=' + argument.removeprefix('--gin.')
    rewritten.append(argument)
  return rewritten


def _weight(binding: Binding) -> int:
  """Of two bindings of one name the heavier holds: 2 for a value.

  0, REQUIRED, asks for one. 1, None in a file of the package, says that a run
  can do without; in a file of the user's, None is a value.
  """
  if not binding.is_macro:
    return 2
  ours = binding.where.startswith(f'{_root()}{os.sep}')
  none = 1 if ours and binding.value is None else 2
  return 0 if binding.is_required else none


def _effective(
  roots: Sequence[list[Binding]], command_line: Sequence[Binding]
) -> dict[tuple[str, ...], Binding]:
  """What holds in the end: {key: binding}; a blank where no file fills it.

  Raises: UserError if two of the files given bind one name.
  """
  merged: dict[tuple[str, ...], Binding] = {}
  for root in roots:
    for key, binding in {each.key: each for each in root}.items():
      other = merged.get(key, binding)
      if other.where != binding.where:
        if _weight(binding) < _weight(other):
          continue
        if _weight(binding) == _weight(other) == 2:
          raise UserError(
            f'{binding.name} is bound twice: {other.where} and '
            f'{binding.where}. Expected the files of one command line to bind '
            'different names, so that their order cannot matter. Take one of '
            f'the two out; to override a file, use --gin.{binding.name}=...'
          )
      merged[key] = binding
  return merged | {each.key: each for each in command_line}


def _reached(effective: Mapping[tuple[str, ...], Binding]) -> dict[str, str]:
  """{macro that some parameter depends on: where it is read}."""
  reached: dict[str, str] = {}
  pending = [each for each in effective.values() if not each.is_macro]
  while pending:
    binding = pending.pop(0)
    for name in binding.macros():
      if name not in reached:
        reached[name] = binding.where
        if (name,) in effective:
          pending.append(effective[(name,)])
  return reached


def _refuse_idle(command_line, in_files, reached) -> None:
  """Refuses macros of the command line that change nothing."""
  mentioned = {each.key[0] for each in in_files if each.is_macro}
  mentioned.update(name for each in in_files for name in each.macros())
  for binding in command_line:
    name = binding.key[0]
    if not binding.is_macro or name in reached:
      continue
    if name in mentioned:
      raise UserError(
        f'--gin.{name} is set on the command line, but no parameter reads '
        f'%{name} in the files given. Leave it out, or add the gin file that '
        'reads it.'
      )
    close = ', '.join(params.nearest(name.upper(), sorted(mentioned)))
    raise UserError(
      f'--gin.{name} on the command line: no gin file given mentions a macro '
      f'{name!r}. ' + (f'Nearest: {close}.' if close else 'No macro is known.')
    )


def _refuse_missing(effective, reached) -> None:
  """Refuses macros and parameters that are read but have no value."""
  missing = {}
  for name, where in reached.items():
    binding = effective.get((name,))
    if binding is None or binding.is_required:
      missing[name] = f'read at {where}'
  for binding in effective.values():
    if binding.is_required and not binding.is_macro:
      missing[binding.name] = f'required at {binding.where}'
  if not missing:
    return
  idle = {
    each.key[0]: each.where
    for each in effective.values()
    if each.is_macro and each.key[0] not in reached
  }
  lines = [f'{len(missing)} value(s) missing; add to the command line:']
  for name, where in sorted(missing.items())[:_LISTED]:
    alike = difflib.get_close_matches(name, idle, 1, 0.8)
    hint = f'; misspelt {alike[0]} at {idle[alike[0]]}?' if alike else ''
    lines.append(f'  --gin.{name}=...  ({where}{hint})')
  if len(missing) > _LISTED:
    lines.append(f'  and {len(missing) - _LISTED} more')
  raise UserError('\n'.join(lines))


def _macro(name: str) -> str:
  return f'{name}/gin.macro.value'


def _first_reading(files, bindings, search_paths, without=()):
  """Reads all: (bindings and texts of each file, of flags, imports)."""
  imports = statements.Imports(without=tuple(without))
  locate = lambda name: find(name, search_paths)
  read = [statements.read(locate(name), imports, locate) for name in files]
  flags = statements.read_command_line(bindings, imports)
  return read, flags, imports


def unread(
  files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
) -> list[str]:
  """Names of the macros that the files define and no parameter depends on.

  Args and Raises: as of `parse`; gin's own configuration is not touched.
  Returns: sorted names; VOCABULARY, say, for a model file without a run file.
  """
  read, (flags, _), _ = _first_reading(files, bindings, search_paths)
  effective = _effective([bound for bound, _ in read], flags)
  reached = _reached(effective)
  macros = [each for each in effective.values() if each.is_macro]
  return sorted(each.name for each in macros if each.key[0] not in reached)


def parse(
  files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
  without: Sequence[str] = (),
) -> list[str]:
  """Replaces gin's configuration by that of files and command line.

  Args:
    files: names that `find` knows; no two may bind the same name (a file may
      override what it includes, and fill a REQUIRED or what is None in a file
      of the package), so their order does not matter.
    bindings: 'NAME=VALUE' or 'module.function.parameter=VALUE'. They override
      the files. A value that is not gin is a string: MODEL_DIR=/tmp/sst2.
    search_paths: folders to look in, for includes too.
    without: modules to leave alone, and all that the files bind in them, such
      as training for a command that does not train.
  Returns: the modules that were left alone, sorted.
  Raises: UserError for a missing file, bad syntax, an unknown name, a name
    bound by two files, a macro of the command line that nothing reads, and
    for all values still missing, together.
  Departures: T5X lets the later file win; TRAIN_STEPS_RELATIVE is read as
    TRAIN_STEPS, which here counts the steps of this run.
  """
  read, (flags, flag_texts), imports = _first_reading(
    files, bindings, search_paths, without
  )
  effective = _effective([bound for bound, _ in read], flags)
  reached = _reached(effective)
  _refuse_idle(flags, [each for bound, _ in read for each in bound], reached)
  _refuse_missing(effective, reached)
  gin.clear_config()
  filled = {}
  for bound, texts in read:
    for text in texts:
      gin.parse_config(text)
    for binding in bound:
      if binding.is_macro and effective[binding.key] is binding:
        filled[binding.key[0]] = gin.query_parameter(_macro(binding.name))
  # a blank in a later file must not hide the value of an earlier one
  for name, value in filled.items():
    gin.bind_parameter(_macro(name), value)
  both = statements.ALIASES.items()
  same = [f'{old} = %{name}' for old, name in both if (name,) in effective]
  lines = dict.fromkeys(imports.lines)
  gin.parse_config([statements.DYNAMIC, *lines, *flag_texts, *same])
  return imports.left_alone()


def operative() -> str:
  """The gin text of every parameter used so far, defaults included."""
  return gin.operative_config_str()
