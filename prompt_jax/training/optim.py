"""Optimizers over flat parameters, and learning-rate schedules.

The contract of every optimizer here and in `adafactor.py`: an
`optax.GradientTransformationExtraArgs` with

    state = init(params)                        # params {path: array}
    updates, state = update(grads, state, params, learning_rate=rates)
    params = apply_updates(params, updates)

`rates` is {path: float32 scalar} with the keys of `params`: the rate of that
path, already times the schedule. The updates are float32, whatever the dtype
of a parameter, and so is the state. A state is a NamedTuple of flat dicts and
of one int32 scalar `count`, the number of updates made.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from prompt_jax.errors import UserError
from prompt_jax.params import nearest

Arrays = dict[str, jax.Array]
Optimizer = optax.GradientTransformationExtraArgs
_KINDS = ('constant', 'linear', 'cosine', 'rsqrt')


class SGDState(NamedTuple):
  """`count` int32 scalar; `trace` {path: float32}, empty without momentum."""

  count: jax.Array
  trace: Arrays


class AxesOptimizer(Optimizer):
  """An optimizer that can be told the logical axes of its parameters.

  Attributes:
    with_axes: `({path: axis names}) -> Optimizer`; the axes may also be a
      callable that gives them, which is then called only if they are needed.
  """

  def __new__(cls, init, update, with_axes):
    optimizer = super().__new__(cls, init, update)
    optimizer.with_axes = with_axes
    return optimizer


def informed(optimizer: Optimizer, axes) -> Optimizer:
  """The optimizer, told the logical axes if it is one that can be told."""
  if isinstance(optimizer, AxesOptimizer):
    return optimizer.with_axes(axes)
  return optimizer


def as_float32(arrays: Mapping[str, jax.Array]) -> Arrays:
  """{path: array} with every array in float32."""
  return {path: leaf.astype(jnp.float32) for path, leaf in arrays.items()}


def apply_updates(params: Mapping[str, jax.Array], updates) -> Arrays:
  """param + update, added in float32, then cast to the parameter's dtype.

  Args:
    params: {path: array}.
    updates: {path: float32}, same keys and shapes.
  Returns: {path: array} in the dtypes of `params`.
  """
  return {
    path: (leaf.astype(jnp.float32) + updates[path]).astype(leaf.dtype)
    for path, leaf in params.items()
  }


def clip_global_norm(grads: Arrays, limit: float) -> Arrays:
  """Scales all gradients so that their joint norm is at most `limit`.

  g * min(1, limit / ||g||), the norm over every entry of every path.

  Args:
    grads: {path: float32}.
    limit: the largest norm let through, above 0.
  Returns: {path: float32}.
  Source: Pascanu et al. 2013, algorithm 1.
  """
  squares = [jnp.sum(jnp.square(grad)) for grad in grads.values()]
  norm = jnp.sqrt(sum(squares))
  # a norm of 0 makes the quotient infinite, which the minimum takes care of
  scale = jnp.minimum(1.0, limit / norm)
  return {path: grad * scale for path, grad in grads.items()}


def check_positive(where: str, **numbers: float | None) -> None:
  """Raises UserError unless each number is above 0 or None."""
  for name, number in numbers.items():
    if number is not None and not number > 0:
      raise UserError(
        f'{where} got {name}={number!r}; expected a number above 0, or None '
        f'to switch it off. Correct {where}.{name}.'
      )


def check_share(where: str, **numbers: float | None) -> None:
  """Raises UserError unless each number is in [0, 1) or None."""
  for name, number in numbers.items():
    if number is not None and not 0 <= number < 1:
      raise UserError(
        f'{where} got {name}={number!r}; expected a number of at least 0 and '
        f'below 1. Correct {where}.{name}.'
      )


def adamw(
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  global_norm_clip: float | None = None,
) -> Optimizer:
  """Adam with decoupled weight decay.

  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
  update = -lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + weight_decay p)

  Args:
    b1, b2: decay of the two moments per update.
    eps: added to the root of the second moment.
    weight_decay: share of the parameter taken off, times the learning rate
      (unlike Adafactor's, which the rate does not touch). 0 is plain Adam.
    global_norm_clip: limit on the norm of all gradients together, or None.
  Returns: an optimizer whose state is `optax.ScaleByAdamState`.
  Raises: UserError for b1, b2 outside [0, 1) or a limit that is not above 0.
  Source: Loshchilov and Hutter 2019, algorithm 2; the default b1, b2, eps are
    those of Kingma and Ba 2015, algorithm 1.
  Departures: decay is times the learning rate, as in optax.adamw.
  """
  check_share('adamw', b1=b1, b2=b2)
  check_positive('adamw', global_norm_clip=global_norm_clip)
  adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

  def init(params):
    return adam.init(as_float32(params))

  def update(grads, state, params, *, learning_rate):
    grads, params = as_float32(grads), as_float32(params)
    if global_norm_clip is not None:
      grads = clip_global_norm(grads, global_norm_clip)
    steps, state = adam.update(grads, state)
    updates = {
      path: -learning_rate[path] * (steps[path] + weight_decay * leaf)
      for path, leaf in params.items()
    }
    return updates, state

  return Optimizer(init, update)


def sgd(
  momentum: float | None = None,
  nesterov: bool = False,
  global_norm_clip: float | None = None,
) -> Optimizer:
  """Gradient descent, with momentum if asked for.

  trace = g + momentum trace;  update = -lr trace
  nesterov: update = -lr (g + momentum trace)

  Args:
    momentum: decay of the trace per update; None keeps no trace.
    nesterov: looks one step ahead; needs a momentum.
    global_norm_clip: limit on the norm of all gradients together, or None.
  Returns: an optimizer whose state is `SGDState`.
  Raises: UserError for a momentum outside [0, 1), nesterov without momentum,
    or a limit that is not above 0.
  Source: Sutskever et al. 2013, section 2.
  Departures: the rate multiplies the trace instead of entering it, as in
    optax.sgd, so a rate that changes acts at once.
  """
  check_share('sgd', momentum=momentum)
  check_positive('sgd', global_norm_clip=global_norm_clip)
  if nesterov and momentum is None:
    raise UserError(
      'sgd got nesterov=True and momentum=None; expected a momentum, which '
      'nesterov looks ahead with. Set sgd.momentum, or sgd.nesterov=False.'
    )
  tracer = optax.trace(momentum or 0.0, nesterov)

  def init(params):
    trace = {} if momentum is None else tracer.init(as_float32(params)).trace
    return SGDState(jnp.zeros((), jnp.int32), trace)

  def update(grads, state, params, *, learning_rate):
    steps, trace = as_float32(grads), state.trace
    if global_norm_clip is not None:
      steps = clip_global_norm(steps, global_norm_clip)
    if momentum is not None:
      steps, traced = tracer.update(steps, optax.TraceState(trace))
      trace = traced.trace
    updates = {path: -learning_rate[path] * steps[path] for path in params}
    return updates, SGDState(state.count + 1, trace)

  return Optimizer(init, update)


def schedule(
  kind: str = 'constant',
  warmup_steps: int = 0,
  total_steps: int | None = None,
  final_fraction: float = 0.0,
) -> Callable[[jax.Array], jax.Array]:
  """The factor on every learning rate as a function of the step; 1 at peak.

  warm = min(1, step / warmup_steps);  done = share of the decay, 0 to 1
  constant: warm
  linear:   warm (1 - (1 - final_fraction) done)
  cosine:   warm (final_fraction + (1 - final_fraction) (1 + cos(pi done)) / 2)
  rsqrt:    warm sqrt(warmup_steps / max(step, warmup_steps))

  Args:
    kind: 'constant', 'linear', 'cosine' or 'rsqrt'.
    warmup_steps: updates until the peak; the factor of step 0 is then 0.
    total_steps: step at which linear and cosine end; later steps stay at the
      end. The other two do not read it.
    final_fraction: factor at that end, between 0 and 1; linear and cosine.
  Returns: step (int32 scalar, updates made so far) -> float32 scalar.
  Raises: UserError for an unknown kind or lengths that do not fit it.
  Source: T5X's factors linear_warmup and rsqrt_normalized_decay; cosine:
    Loshchilov and Hutter 2017, equation 5, one cycle.
  Departures: T5X's floor of 1e-8 on the rate is left out: 0 means 0.
  """
  _check_schedule(kind, warmup_steps, total_steps, final_fraction)

  def decay(step):
    if kind == 'constant':
      return jnp.ones_like(step)
    if kind == 'rsqrt':
      return jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    done = jnp.clip(done, 0.0, 1.0)
    if kind == 'cosine':
      done = 0.5 * (1.0 - jnp.cos(jnp.pi * done))
    return 1.0 - (1.0 - final_fraction) * done

  def factor(step):
    step = jnp.asarray(step, jnp.float32)  # exact below 2**24 steps
    warm = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
    return warm * decay(step)

  return factor


def _check_schedule(kind, warmup_steps, total_steps, final_fraction) -> None:
  """Raises UserError where a schedule's numbers do not fit its kind."""
  if kind not in _KINDS:
    raise UserError(
      f'schedule got kind={kind!r}; expected one of {", ".join(_KINDS)}. Did '
      f'you mean {nearest(str(kind), _KINDS, 1)[0]!r}? Correct schedule.kind.'
    )
  if warmup_steps < 0 or (kind == 'rsqrt' and warmup_steps == 0):
    least = 1 if kind == 'rsqrt' else 0
    raise UserError(
      f'schedule {kind!r} got warmup_steps={warmup_steps}; expected at least '
      f'{least} updates. Correct schedule.warmup_steps.'
    )
  ends = kind in ('linear', 'cosine')
  none = total_steps == warmup_steps == 0  # a run that only writes step 0
  if ends and not none and (total_steps is None or total_steps <= warmup_steps):
    raise UserError(
      f'schedule {kind!r} got total_steps={total_steps}; expected more than '
      f'warmup_steps={warmup_steps}, counted from the first update of this '
      'run. Set schedule.total_steps, usually to TRAIN_STEPS.'
    )
  if not 0 <= final_fraction <= 1:
    raise UserError(
      f'schedule {kind!r} got final_fraction={final_fraction}; expected a '
      'number from 0 to 1. Correct schedule.final_fraction.'
    )
  if final_fraction and not ends:
    raise UserError(
      f'schedule {kind!r} got final_fraction={final_fraction}; expected 0, '
      'for it has no end to fall to. Take linear or cosine, or leave '
      'schedule.final_fraction out.'
    )
