"""Which axes of a parameter Adafactor factors, and which its RMS is over.

Source: T5X's Adafactor, for the rules and their meaning; 'APART' is ours.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prompt_jax.errors import UserError
from prompt_jax.params import nearest

# T5X's rules for T5's logical axes, and those that Lester et al.'s released
# code adds for prompts
FACTOR_RULES = {
  'embed': 'ROW',
  'vocab': 'COLUMN',
  'mlp': 'COLUMN',
  'heads': 'COLUMN',
  'kv': 'COLUMN',
  'joined_kv': 'COLUMN',
  'mlp_activations': 'COLUMN',
  'layers': 'BATCH',
  'stack': 'BATCH',
  'batch': 'BATCH',
  'relpos_buckets': 'NONE',
  'layer_norm_scale': 'NONE',
  'prompt': 'NONE',
  'tasks': 'APART',
  'prompt+embed': 'NONE',
  'prompt_embed': 'NONE',
}
ROLES = ('ROW', 'COLUMN', 'BATCH', 'NONE', 'APART')


class Layout(NamedTuple):
  """Axes of one parameter: `averaged` for RMS; `rows`, `columns` factored.

  v_row is averaged over `columns` and v_col over `rows`; both are empty for a
  parameter that is not factored.
  """

  averaged: tuple[int, ...]
  rows: tuple[int, ...] = ()
  columns: tuple[int, ...] = ()


def layout(
  path: str,
  shape: Sequence[int],
  axes: Sequence[str] | None = None,
  rules: Mapping[str, str] = FACTOR_RULES,
  min_dim_size_to_factor: int = 128,
) -> Layout:
  """Which axes of a parameter are factored and which its RMS is taken over.

  Each index of an APART axis is a parameter by itself, laid out as if it were
  there alone: a task that trains beside others trains as it would without.
  Rank 1 or 2 without a BATCH axis: factored iff the second largest dimension
  is at least `min_dim_size_to_factor`; the rules are not asked. Any other
  parameter: as the rules say, and factored iff they give a ROW and a COLUMN.

  Args:
    path: slash path, for the error.
    shape: of the parameter.
    axes: logical axis names, one per dimension, None for one that has no
      name and is in no factor; None if unknown.
    rules: {axis name: 'ROW', 'COLUMN', 'BATCH', 'NONE' or 'APART'}; RMS is
      taken apart for each index of a BATCH or APART axis.
    min_dim_size_to_factor: see above.
  Returns: the layout.
  Raises: UserError for a rank above 2 without axes, the wrong number of
    axes, an axis without rule, or ROW, COLUMN and NONE together.
  Source: T5X's Adafactor.
  """
  every = tuple(range(len(shape)))
  roles = None if axes is None else _roles(path, shape, axes, rules)
  if roles is None and len(shape) > 2:
    raise UserError(
      f'Adafactor got {path} of shape {tuple(shape)} without logical axes; '
      'expected rank 2 at most, or one axis name per dimension. Pass '
      "logical_axes={path: names}, such as ('layers', 'embed', 'mlp')."
    )
  if 'APART' in (roles or ()):
    left = tuple(axis for axis in every if roles[axis] != 'APART')
    alone = layout(
      path,
      [shape[axis] for axis in left],
      [axes[axis] for axis in left],
      rules,
      min_dim_size_to_factor,
    )
    return Layout(*(tuple(left[axis] for axis in each) for each in alone))
  if len(shape) <= 2 and 'BATCH' not in (roles or ()):
    by_size = sorted(every, key=lambda axis: shape[axis])  # stable: ties keep
    if len(shape) < 2 or shape[by_size[0]] < min_dim_size_to_factor:
      return Layout(every)
    return Layout(every, (by_size[0],), (by_size[1],))
  where = lambda role: tuple(axis for axis in every if roles[axis] == role)
  averaged = tuple(axis for axis in every if roles[axis] != 'BATCH')
  rows, columns = where('ROW'), where('COLUMN')
  return Layout(averaged, *((rows, columns) if rows and columns else ()))


def _roles(path, shape, axes, rules) -> tuple[str, ...]:
  """The rule of each dimension, checked."""
  if len(axes) != len(shape):
    raise UserError(
      f'Adafactor got {len(axes)} logical axes {tuple(axes)} for {path} of '
      f'shape {tuple(shape)}; expected one per dimension. Correct '
      'logical_axes.'
    )
  rules = {**rules, None: 'NONE'}  # an axis without a name
  for name in axes:
    if name not in rules:
      close = ', '.join(nearest(name, [*filter(None, rules)]))
      raise UserError(
        f'Adafactor got the logical axis {name!r} of {path}, which has no '
        f'rule; expected a key of logical_factor_rules. Nearest: {close}. '
        f'Add {name!r} with one of {", ".join(ROLES)}.'
      )
  roles = tuple(rules[name] for name in axes)
  if {'ROW', 'COLUMN', 'NONE'} <= set(roles):
    raise UserError(
      f'Adafactor got the rules {roles} for the axes {tuple(axes)} of {path}; '
      'expected no NONE beside ROW and COLUMN, for every axis has to be in '
      'v_row or v_col. Make it ROW, COLUMN or BATCH in logical_factor_rules.'
    )
  return roles
