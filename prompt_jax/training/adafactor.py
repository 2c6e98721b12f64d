"""Adafactor as T5X runs it, over flat parameters.

With step the counter before the update, every number in float32:

    t     = step - step_offset + 1
    decay = 1 - t^-decay_rate,  mix = 1 - decay
    v     = decay v + mix (g^2 + epsilon1)            whole or factored
    y     = g / sqrt(v),  y = y / max(1, RMS(y) / clipping_threshold)
    u     = rate clamp(RMS(p), epsilon2, max_parameter_scale) y
    p     = (1 - weight_decay_rate) p - u             not times the rate

Factored, v is kept as its means over two sets of axes, v_row and v_col:

    1 / sqrt(v) -> 1 / sqrt(v_row / mean(v_row)) / sqrt(v_col)

Source: Shazeer and Stern 2018, algorithms 4 to 6; T5X for the axes, the
counter and the weight decay.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.training import optim
from prompt_jax.training.layout import FACTOR_RULES, ROLES, Layout, layout
from prompt_jax.training.optim import Arrays

Axes = Mapping[str, Sequence[str | None]]


class AdafactorState(NamedTuple):
  """`count` int32 scalar and {path: array}; a path is only where it is used.

  v_row and v_col for factored paths, v for the others (float32); m for all
  paths if beta1 is set (dtype_momentum), else for none.
  """

  count: jax.Array
  v_row: Arrays
  v_col: Arrays
  v: Arrays
  m: Arrays


def decay_at(step: jax.Array, decay_rate: float) -> jax.Array:
  """1 - (step + 1)^-decay_rate, float32; step counts from step_offset."""
  return 1.0 - (step.astype(jnp.float32) + 1.0) ** -decay_rate


def adafactor(
  decay_rate: float = 0.8,
  step_offset: int = 0,
  clipping_threshold: float | None = 1.0,
  epsilon1: float = 1e-30,
  epsilon2: float = 1e-3,
  min_dim_size_to_factor: int = 128,
  beta1: float | None = None,
  dtype_momentum: str = 'float32',
  weight_decay_rate: float | None = None,
  weight_decay_rate_lr_exponent: float | None = None,
  multiply_by_parameter_scale: bool | Sequence[tuple[str, bool]] = True,
  max_parameter_scale: float | None = None,
  factored: bool = True,
  global_norm_clip_threshold: float | None = None,
  first_step: int = 0,
  logical_axes: Axes | Callable[[], Axes] | None = None,
  logical_factor_rules: Mapping[str, str] | None = None,
) -> optim.Optimizer:
  """Adafactor; the formulas are in the head of this file.

  Args:
    decay_rate to max_parameter_scale: as in the formulas; None switches off.
    step_offset: taken off the counter inside `decay` only.
    beta1: u = m = beta1 m + (1 - beta1) u; m is stored as dtype_momentum
      ('float32' or 'bfloat16') and used before it is rounded.
    weight_decay_rate_lr_exponent: e: the decay is weight_decay_rate rate^e
      (a weight_decay_rate of None is 1 here).
    multiply_by_parameter_scale: whether RMS(p) enters, or ordered (regex,
      bool): the first that is found in the path wins.
    factored, min_dim_size_to_factor: see `layout`.
    logical_axes: {path: axis names}, or what gives it; see `layout`. None:
      those that `optim.informed` tells, if any.
    logical_factor_rules: see `layout`; None is FACTOR_RULES.
    global_norm_clip_threshold: limit on the norm of all gradients together.
    first_step: where the counter starts. Lester et al.'s runs restored the
      base's 1,100,000 with v at zero: mix is then 1.5e-5 and the clip binds
      at every update, so RMS(u) is the rate itself.
  Returns: an optimizer whose state is `AdafactorState`.
  Raises: UserError for numbers out of range and for rules that do not fit.
  Departures from T5X: a weight decay of 0 with an exponent is 0, not 1; a
    bfloat16 parameter is decayed and its RMS taken in float32; a row of
    zero gradient beside huge ones stays put instead of turning to NaN.
  """
  given = dict(locals())  # one field per argument, same names
  settings = _Adafactor(**given)

  def with_axes(axes):
    return (
      optimizer if logical_axes else adafactor(**given | {'logical_axes': axes})
    )

  optimizer = optim.AxesOptimizer(settings.init, settings.update, with_axes)
  return optimizer


@dataclasses.dataclass(frozen=True)
class _Adafactor:
  """The arguments of `adafactor`, checked, and the two functions of them."""

  decay_rate: float
  step_offset: int
  clipping_threshold: float | None
  epsilon1: float
  epsilon2: float
  min_dim_size_to_factor: int
  beta1: float | None
  dtype_momentum: str
  weight_decay_rate: float | None
  weight_decay_rate_lr_exponent: float | None
  multiply_by_parameter_scale: bool | Sequence[tuple[str, bool]]
  max_parameter_scale: float | None
  factored: bool
  global_norm_clip_threshold: float | None
  first_step: int
  logical_axes: Axes | Callable[[], Axes] | None
  logical_factor_rules: Mapping[str, str] | None

  def __post_init__(self):
    for name in (
      'decay_rate',
      'clipping_threshold',
      'max_parameter_scale',
      'global_norm_clip_threshold',
    ):
      optim.check_positive('adafactor', **{name: getattr(self, name)})
    optim.check_share('adafactor', beta1=self.beta1)
    if self.first_step < self.step_offset:
      raise UserError(
        f'adafactor got first_step={self.first_step} and step_offset='
        f'{self.step_offset}; expected a counter that starts at the offset or '
        'after it, else the decay has no value. Set first_step to the step '
        'of the base checkpoint, or step_offset=0.'
      )
    if str(self.dtype_momentum) not in ('float32', 'bfloat16'):
      raise UserError(
        f'adafactor got dtype_momentum={self.dtype_momentum!r}; expected '
        "'float32' or 'bfloat16'. Correct adafactor.dtype_momentum."
      )
    for name, role in (self.logical_factor_rules or {}).items():
      if role not in ROLES:
        raise UserError(
          f'logical_factor_rules maps {name!r} to {role!r}; expected one of '
          f'{", ".join(ROLES)}. Correct adafactor.logical_factor_rules.'
        )

  def init(self, params: Arrays) -> AdafactorState:
    count = jnp.asarray(self.first_step, jnp.int32)
    state = AdafactorState(count, {}, {}, {}, {})
    for path, param in params.items():
      self._scales(path)  # a path without rule is told before the first step
      axes = self._layout(path, param.shape)
      if axes.rows:
        state.v_row[path] = _zeros(param.shape, axes.columns)
        state.v_col[path] = _zeros(param.shape, axes.rows)
      else:
        state.v[path] = jnp.zeros(param.shape, jnp.float32)
      if self.beta1 is not None:
        state.m[path] = jnp.zeros(param.shape, self.dtype_momentum)
    return state

  def update(self, grads, state, params, *, learning_rate):
    grads, params = optim.as_float32(grads), optim.as_float32(params)
    if self.global_norm_clip_threshold is not None:
      grads = optim.clip_global_norm(grads, self.global_norm_clip_threshold)
    decay = decay_at(state.count - self.step_offset, self.decay_rate)
    updates, after = {}, AdafactorState(state.count + 1, {}, {}, {}, {})
    for path, param in params.items():
      axes, rate = self._layout(path, param.shape), learning_rate[path]
      square = jnp.square(grads[path]) + self.epsilon1
      if axes.rows:
        row = _mix(state.v_row[path], square.mean(axes.columns), decay)
        column = _mix(state.v_col[path], square.mean(axes.rows), decay)
        after.v_row[path], after.v_col[path] = row, column
        step = _over_factored_root(grads[path], row, column, axes)
      else:
        after.v[path] = _mix(state.v[path], square, decay)
        step = grads[path] * after.v[path] ** -0.5
      scale = rate
      if self._scales(path):
        scale = rate * self._parameter_scale(param, axes)
      step = scale * self._clipped(step, axes)
      if self.beta1 is not None:
        # no cast: beside a bfloat16 m, beta1 is rounded to bfloat16 as well
        # (0.9 to 0.8984), which T5X's trajectories show
        step = self.beta1 * state.m[path] + (1.0 - self.beta1) * step
        after.m[path] = step.astype(self.dtype_momentum)
      updates[path] = -step - self._weight_decay(rate) * param
    return updates, after

  def _clipped(self, step, axes: Layout):
    if self.clipping_threshold is None:
      return step
    excess = _rms(step, axes) / self.clipping_threshold
    return step / jnp.maximum(1.0, excess)

  def _parameter_scale(self, param, axes: Layout):
    scale = jnp.maximum(_rms(param, axes), self.epsilon2)
    if self.max_parameter_scale is None:
      return scale
    return jnp.minimum(scale, self.max_parameter_scale)

  def _weight_decay(self, rate):
    decay, exponent = self.weight_decay_rate, self.weight_decay_rate_lr_exponent
    if exponent is None:
      return decay or 0.0
    return (1.0 if decay is None else decay) * rate**exponent

  def _scales(self, path: str) -> bool:
    """Whether the parameter's own size enters its update."""
    table = self.multiply_by_parameter_scale
    if isinstance(table, bool):
      return table
    for pattern, value in table:
      if re.search(pattern, path):
        return value
    patterns = ', '.join(repr(pattern) for pattern, _ in table)
    raise UserError(
      f'adafactor got {path}, in which no pattern of '
      f'multiply_by_parameter_scale is found ({patterns}); expected one for '
      "every parameter that trains. Add a last row such as ('.*', False)."
    )

  def _layout(self, path: str, shape: Sequence[int]) -> Layout:
    if not self.factored:
      return Layout(tuple(range(len(shape))))
    axes, known = None, self.logical_axes
    if callable(known):
      known = known()
    if known is None and self.logical_factor_rules is not None:
      raise UserError(
        'adafactor got logical_factor_rules without logical_axes; expected '
        'both, for the rules are looked up by axis name. Pass logical_axes='
        '{path: axis names}, or leave the rules out.'
      )
    if known is not None:
      if path not in known:
        close = ', '.join(nearest(path, list(known)))
        raise UserError(
          f'adafactor got {path}, which logical_axes lacks; expected the axis '
          f'names of every parameter that trains. Nearest: {close}.'
        )
      axes = known[path]
    rules = self.logical_factor_rules or FACTOR_RULES
    return layout(path, shape, axes, rules, self.min_dim_size_to_factor)


def _zeros(shape: Sequence[int], dropped: Sequence[int]) -> jax.Array:
  kept = [size for axis, size in enumerate(shape) if axis not in dropped]
  return jnp.zeros(kept, jnp.float32)


def _rms(array: jax.Array, axes: Layout) -> jax.Array:
  """Root of the mean square over `averaged`, which stay as axes of size 1."""
  return jnp.sqrt(jnp.mean(jnp.square(array), axes.averaged, keepdims=True))


def _mix(old: jax.Array, new: jax.Array, decay: jax.Array) -> jax.Array:
  # 1 - decay and not t^-decay_rate: the two differ by 0.15 % at 1.1 million
  # steps, where float32 is coarse just below 1, and T5X has the former
  return decay * old + (1.0 - decay) * new


def _over_factored_root(grad, row, column, axes: Layout) -> jax.Array:
  """grad / sqrt(v_row / mean(v_row)) / sqrt(v_col), in the shape of grad.

  Args: row lacks the axes `columns` of grad, column lacks the axes `rows`.
  """
  row = jnp.expand_dims(row, axes.columns)
  column = jnp.expand_dims(column, axes.rows)
  share = row / row.mean(axes.rows, keepdims=True)
  # a row of zero gradient holds epsilon1 alone; beside gradients of 1e4 its
  # share underflows to 0, and 0 / 0 would spoil the whole parameter
  share = jnp.maximum(share, jnp.finfo(jnp.float32).tiny)
  # grad first: where it is 0 both roots are huge and could overflow together
  return grad * share**-0.5 * column**-0.5
