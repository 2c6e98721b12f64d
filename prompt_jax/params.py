"""Parameters as flat dicts {slash path: array}: one path language for all.

    {'encoder': {'prompt': {'prompt': p}}}  <->  {'encoder/prompt/prompt': p}

Outside a linen module a tree of parameters is always the flat form. Patterns
are regular expressions that must match a whole path; a table of patterns is
read from the top and the first match wins.
"""

from collections.abc import Mapping, Sequence
import difflib
import hashlib
import re
from typing import Any

import numpy as np

from prompt_jax.errors import UserError

Flat = dict[str, Any]


def flatten(tree: Mapping[str, Any]) -> Flat:
  """Nested dict of leaves -> {slash path: leaf}, in sorted path order."""
  flat = {}

  def walk(node, prefix):
    for name, child in node.items():
      path = f'{prefix}{name}'
      if isinstance(child, Mapping):
        walk(child, path + '/')
      else:
        flat[path] = child

  walk(tree, '')
  return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{slash path: leaf} -> nested dict; the inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def nearest(name: str, names: Sequence[str], n: int = 3) -> list[str]:
  """The n entries of `names` that look most like `name`, best first."""
  plain = re.sub(r'[\\^$.*+?{}\[\]|()]', '', name)
  shared = lambda other: difflib.SequenceMatcher(None, plain, other).ratio()
  return sorted(names, key=shared, reverse=True)[:n]


def match(pattern: str, paths: Sequence[str], where: str) -> list[str]:
  """The paths that `pattern` matches whole.

  Args:
    pattern: regular expression over slash paths.
    paths: the candidates.
    where: what the pattern belongs to, for the error ('the train table').
  Returns: the matching paths, in the order given; at least one.
  Raises: UserError if nothing matches (shows the nearest paths) or the
    pattern is not a regular expression.
  """
  try:
    found = [path for path in paths if re.fullmatch(pattern, path)]
  except re.error as error:
    raise UserError(
      f'{pattern!r} in {where} is not a regular expression: {error}. '
      'Expected a pattern that matches whole slash paths.'
    ) from error
  if not found:
    close = ', '.join(nearest(pattern, paths))
    raise UserError(
      f'{pattern!r} in {where} matches none of the {len(paths)} paths; '
      f'expected at least one. Nearest: {close}. A pattern has to match the '
      'whole path.'
    )
  return found


def split(flat: Mapping[str, Any], table) -> tuple[Flat, Flat, Flat]:
  """Parts parameters by an ordered train table; first match wins.

  Args:
    flat: {path: leaf}.
    table: ordered [(pattern, learning rate)]; what no row matches is frozen.
  Returns: (trainable, frozen, {trainable path: learning rate}).
  Raises: UserError if the table is empty, or a row is no pattern and rate
    above 0 or matches nothing at all.
  """
  if not table:
    raise UserError(
      'The train table is empty, so nothing would train; expected at least '
      "one (pattern, learning rate) such as ('.*/prompt/.*', 0.3)."
    )
  rates: dict[str, float] = {}
  for row in table:
    pattern, rate = _row(row)
    found = match(pattern, list(flat), 'the train table')
    for path in found:
      rates.setdefault(path, rate)
  trainable = {path: leaf for path, leaf in flat.items() if path in rates}
  frozen = {path: leaf for path, leaf in flat.items() if path not in rates}
  return trainable, frozen, {path: rates[path] for path in trainable}


def _row(row) -> tuple[str, float]:
  """The pattern and the rate of a row of a train table, checked."""
  is_pair = isinstance(row, Sequence) and len(row) == 2
  if isinstance(row, str) or not is_pair or not isinstance(row[0], str):
    raise UserError(
      f'The train table has the row {row!r}; expected a pair of a path pattern '
      "and a learning rate, such as ('.*/prompt/.*', 0.3)."
    )
  pattern, rate = row
  is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
  if not is_number or not 0 < rate < float('inf'):
    raise UserError(
      f'The train table gives {pattern!r} the learning rate {rate!r}; expected '
      'a number above 0, such as 0.3. Correct LEARNING_RATE, or leave the row '
      'out to freeze what it matches.'
    )
  return pattern, rate


def merge(*parts: Mapping[str, Any]) -> Flat:
  """The union of disjoint flat dicts; the inverse of `split`.

  Raises: ValueError if a path occurs twice (a bug of ours, not of a user).
  """
  merged: Flat = {}
  for part in parts:
    twice = merged.keys() & part.keys()
    if twice:
      raise ValueError(f'paths in two parts of one tree: {sorted(twice)}')
    merged.update(part)
  return dict(sorted(merged.items()))


def count(flat: Mapping[str, Any]) -> int:
  """Number of scalars in a flat dict of arrays or shapes."""
  return sum(int(np.prod(leaf.shape)) for leaf in flat.values())


def difference(expected, found, limit: int = 10) -> list[str]:
  """Readable lines on how two {path: leaf with .shape} differ.

  Returns: sorted lines 'missing ...', 'left over ...', 'shape ...'; at most
    `limit`, then 'and n more'. Empty where keys and shapes agree.
  """
  lines = []
  for path in sorted(expected.keys() - found.keys()):
    close = nearest(path, sorted(found.keys() - expected.keys()), 1)
    hint = f' (nearest left-over key: {close[0]})' if close else ''
    shape = tuple(expected[path].shape)
    lines.append(f'missing    {path} {shape}{hint}')
  for path in sorted(found.keys() - expected.keys()):
    lines.append(f'left over  {path} {tuple(found[path].shape)}')
  for path in sorted(expected.keys() & found.keys()):
    want, got = tuple(expected[path].shape), tuple(found[path].shape)
    if want != got:
      lines.append(f'shape      {path} is {got}, expected {want}')
  extra = len(lines) - limit
  return lines[:limit] + ([f'and {extra} more'] if extra > 0 else [])


class Digest:
  """Running digest of leaves given in sorted path order."""

  def __init__(self):
    self._total = hashlib.sha256()

  def update(self, path: str, leaf: Any) -> None:
    """Takes one leaf in: its path, dtype, shape and bytes."""
    array = np.ascontiguousarray(leaf)
    self._total.update(f'{path} {array.dtype} {np.shape(leaf)}\n'.encode())
    self._total.update(array.reshape(-1).view(np.uint8))

  def hex(self) -> str:
    return self._total.hexdigest()[:16]


def digest(flat: Mapping[str, Any]) -> str:
  """Hex digest of a flat dict; equal iff bitwise equal."""
  total = Digest()
  for path in sorted(flat):
    total.update(path, flat[path])
  return total.hex()
