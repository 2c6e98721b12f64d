"""Rates: how often each task of a run is seen."""

from collections.abc import Callable, Mapping
import math
from typing import Any

from prompt_jax.errors import UserError
from prompt_jax.params import nearest
from prompt_jax.tasks import examples


def of_tasks(
  listed: Mapping[str, Any],
  tasks: Mapping[str, Any],
  given: Mapping[str, float] | None,
  count: Callable[[str], int | None],
) -> dict[str, float]:
  """The share of every task.

  share(task) = sum over what is listed: its rate x share of the task within

  Args:
    listed: {name: seqio.Task or seqio.Mixture}.
    tasks: {name: seqio.Task}, all of them.
    given: {name: rate} for each name listed, or for each task of a single
      mixture; None: a mixture's own rates, else numbers of examples.
    count: examples of a task, where known.
  Returns: {task name: share}, in the order of `tasks`; their sum is 1.
  Raises: UserError for a missing, unknown or impossible rate.
  """
  first = next(iter(listed.values()))
  alone = len(listed) == 1 and examples.is_mixture(first)
  parts = tasks if alone and given else listed
  rates = dict(given or {})
  if rates and set(rates) != set(parts):
    odd = sorted(set(rates) ^ set(parts))[0]
    raise UserError(
      f'rates has the names {sorted(rates)}; expected a rate for each of '
      f'{sorted(parts)}. {odd!r} is on one side only; nearest: '
      f'{nearest(odd, sorted(parts), 1)[0]!r}.'
    )
  total: dict[str, float] = dict.fromkeys(tasks, 0.0)
  for name, part in parts.items():
    mixed = examples.is_mixture(part)
    inner = examples.shares(part) if mixed else {name: 1.0}
    outer = rates.get(name)
    if outer is None and len(parts) > 1:
      counts = [count(task) for task in inner]
      if None in counts:
        raise UserError(
          f'The number of examples of {name!r} is not known, so neither is '
          'its rate; expected rates={name: rate} for all tasks.'
        )
      outer = sum(counts)
    for task, share in inner.items():
      scale = 1.0 if outer is None else outer
      total[task] += scale * share / sum(inner.values())
  bad = [name for name, rate in total.items() if not 0 < rate < math.inf]
  if bad:
    raise UserError(
      f'The rate of task {bad[0]!r} is {total[bad[0]]}; expected a positive '
      'number. Leave the task out instead.'
    )
  return {name: rate / sum(total.values()) for name, rate in total.items()}
