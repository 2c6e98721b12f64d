"""Convert: prompts and inserts from and to the files of other libraries.

prompt-jax convert IN OUT [--from FORMAT] [--to FORMAT] [--key NAME]
                          [--model BASE]

    IN   npy, npz, inserts, peft, torch, t5x      told by its content
    OUT  npy, inserts, peft                       told by its name and --to

Without --to a prompt becomes OUT.npy with a sidecar, and inserts become a
folder OUT with inserts.npz and inserts.json.
"""

import os
import pathlib
import sys
from typing import Any
import zipfile

import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved as saved_inserts
from prompt_jax.interop import npz_prompt, peft, t5x_prompt, torch_prompt
from prompt_jax.interop.content import Inserts, Prompt
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained

_NPZ, _ABOUT = 'inserts.npz', 'inserts.json'
_KEYED = {
  'npz': npz_prompt.read,
  'torch': torch_prompt.read,
  't5x': t5x_prompt.read,
}
_WHOLE = {
  'npy': lambda path: Prompt(*_npy(path)),
  'inserts': lambda path: _inserts(path),
  'peft': peft.read,
}
FORMATS = (*_WHOLE, *_KEYED)
TARGETS = ('npy', 'inserts', 'peft')


def convert(
  source: str,
  out: str,
  origin: str | None = None,
  target: str | None = None,
  model: str | None = None,
  key: str | None = None,
) -> tuple[list[str], list[str]]:
  """Reads a prompt or inserts in one format and writes them in another.

  Args:
    source: a file, or a folder such as PEFT's or a T5X checkpoint.
    out: what to write; it must not exist.
    origin: one of FORMATS; None looks at the content of `source`.
    target: one of TARGETS; None is 'npy' or 'inserts'.
    model: the base, whose shapes are compared with what was read, and whose
      name and digest go into what is written; None compares nothing.
    key: which array, where `source` holds several.
  Returns: (paths that were written, sentences the user should read).
  Raises: UserError if the source is nothing known, does not fit the model or
    the target, or `out` exists.
  """
  origin = origin or detect(source)
  if origin not in FORMATS:
    raise UserError(
      f'The format of {source} was given as {origin!r}; expected one of '
      f'{", ".join(FORMATS)}. Nearest: {params.nearest(origin, FORMATS, 1)[0]}.'
    )
  if key is not None and origin not in _KEYED:
    raise UserError(
      f'--key is {key!r}, but {source} ({origin}) holds only one thing; '
      f'expected it with one of {", ".join(_KEYED)}. Leave it out.'
    )
  if origin in _KEYED:
    content = _KEYED[origin](source, key)
  else:
    content = _WHOLE[origin](source)
  about, notes = dict(content.about), content.notes
  if model is not None:
    about.update(_checked_against(content, source, model))
  elif about.get('base_digest') is None and target != 'peft':
    notes += (
      'No base is written down, so that any of this width will take it; '
      '--model does so, and compares the shapes.',
    )
  about['converted_from'] = {
    'format': origin,
    'file': os.path.basename(str(source).rstrip('/')),
  }
  return _write(content, about, out, target, model), list(notes)


def flags(parser) -> None:
  """Adds the flags of `prompt-jax convert`."""
  add = parser.add_argument
  add('source', metavar='IN', help='a file, a PEFT folder, a T5X checkpoint')
  add('out', metavar='OUT', help='NAME.npy or a folder; it must not exist')
  add('--from', dest='origin', choices=FORMATS, help='of IN; told if not given')
  add('--to', dest='target', choices=TARGETS, help='of OUT; npy or inserts')
  add('--model', help='the base: shapes are compared, and OUT names it')
  add('--key', help='which array, where IN holds several')


def run(args) -> list[str]:
  """Runs the command; the paths that were written."""
  given = args.source, args.out, args.origin, args.target
  paths, notes = convert(*given, args.model, args.key)
  for note in notes:
    print(f'prompt-jax: {note}', file=sys.stderr)
  return paths


def detect(source: str) -> str:
  """The format of a file or folder, by its content; one of FORMATS.

  Raises: UserError if there is nothing, or nothing known.
  """
  path = pathlib.Path(source)
  if str(source).startswith('gs://'):
    return 't5x'
  if path.is_dir():
    marks = {
      'peft': peft.CONFIG,
      'inserts': _NPZ,
      't5x': 'checkpoint',
    }
    for name, file in marks.items():
      if (path / file).is_file():
        return name
    # of a run, the reader of checkpoints lists the steps
    if (path / 'state').is_dir() or list(path.glob('checkpoint_*')):
      return 't5x'
    there = ', '.join(sorted(child.name for child in path.iterdir())[:8])
    raise UserError(
      f'{path} holds no adapter or prompt; expected {peft.CONFIG} (PEFT), '
      f'{_NPZ}, or a T5X checkpoint in it. There is: {there or "nothing"}. '
      'Give the folder that has it.'
    )
  if not path.is_file():
    saved.read_array(path)  # says what is there instead
  with open(path, 'rb') as file:
    start = file.read(8)
  if start.startswith(np.lib.format.MAGIC_PREFIX):
    return 'npy'
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
    if all(name.endswith('.npy') for name in names):
      own = path.with_suffix('.json').is_file() and path.name == _NPZ
      return 'inserts' if own else 'npz'
    if any(name.endswith('/data.pkl') for name in names):
      return 'torch'
  raise UserError(
    f'{path} is no file of a known format (it begins with {start!r}); expected '
    f'an array of NumPy, a file of torch.save, or {_NPZ}; of an adapter, the '
    'folder. A pickle, or a file of torch before 1.6, is not opened: load it '
    'where you trust it and torch.save the tensor alone.'
  )


def _npy(path: str) -> tuple[np.ndarray, dict[str, Any]]:
  array, about = saved.load(path)
  return array, about or {}


def _inserts(path: str) -> Inserts:
  file = pathlib.Path(path)
  file = file / _NPZ if file.is_dir() else file
  table, arrays, about = saved_inserts.load(file)
  drop = ('inserts', 'parameters')  # written anew
  about = {k: v for k, v in about.items() if k not in drop}
  return Inserts(table, arrays, about)


def _checked_against(
  content: Prompt | Inserts, source: str, model: str
) -> dict[str, str]:
  """What the sidecar says of the base, once the content is found to fit it."""
  folder = pretrained.resolve(model)
  shapes = pretrained.inspect(folder)[1]
  content.check_fit(shapes, source, model)
  # a T5X checkpoint may hold its prompt beside the base
  own = {p: x for p, x in shapes.items() if '/prompt/' not in p}
  total = params.Digest()
  for path, array in pretrained.leaves(folder, own, ('.*/prompt/.*',)):
    total.update(path, array)
  digest, said = total.hex(), content.about.get('base_digest')
  if said not in (None, digest):
    raise UserError(
      f'{source} was saved with base_digest {said}; expected {digest}, that '
      f'of {model}. Give the model it was trained on, or leave --model out.'
    )
  name = os.path.basename(folder.rstrip('/'))
  return {'base': name, 'base_digest': digest}


def _write(content, about, out, target, model) -> list[str]:
  """Writes the content; the paths."""
  is_prompt = isinstance(content, Prompt)
  path = pathlib.Path(out)
  if target == 'peft':
    base = model or about.get('base')
    return [peft.write(path, content, base)]
  natural = 'npy' if is_prompt else 'inserts'
  if target not in (None, natural):
    raise UserError(
      f'What was read is {"a prompt" if is_prompt else "inserts"}; expected '
      f'--to {natural} or --to peft, got --to {target}. An .npy file holds a '
      f'prompt, {_NPZ} inserts.'
    )
  if is_prompt:
    _absent(path, path.with_suffix('.json'))
    array = np.asarray(content.array)
    own = {'stack': 'encoder', 'depth': 1}
    if array.ndim == 2:
      own |= {'length': array.shape[0], 'width': array.shape[1]}
    saved.save(path, array, {**own, **about})
    return [str(path)]
  folder = path.parent if path.name == _NPZ else path
  _absent(folder / _NPZ, folder / _ABOUT)
  return [saved_inserts.save(folder, content.table, content.arrays, about)]


def _absent(*paths: pathlib.Path) -> None:
  for path in paths:
    if path.exists():
      raise UserError(
        f'{path} exists; expected a name that is free, for a conversion never '
        'overwrites. Delete it or choose another name.'
      )


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('convert')
