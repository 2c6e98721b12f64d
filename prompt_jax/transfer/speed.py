"""Speed-up: the steps that an initial value saves.

    convergence   steps of the scratch run to its best / of the started run to
                  its own best
    comparable    steps of the scratch run to its best / of the started run to
                  that score or a better one

Steps are those of evaluations, so they are as fine as EVAL_PERIOD.
Source: Su et al. 2022, section 4.3; the released code computes neither.
"""

from collections.abc import Mapping
import json
import os
import pathlib

from prompt_jax.errors import UserError


def curve(run: str | os.PathLike, metric: str) -> dict[int, float]:
  """{step: value} of the evaluations of a run.

  Args: run: its MODEL_DIR; metric: of its evaluations.
  Raises: UserError if it has no evaluation, or none with the metric.
  """
  path = pathlib.Path(run).expanduser() / 'metrics.jsonl'
  if not path.is_file():
    raise UserError(
      f'There is no {path}; expected the MODEL_DIR of a run, which has it. '
      'Give --scratch and --started such folders.'
    )
  points = [json.loads(line) for line in path.read_text().splitlines()]
  points = [point for point in points if point.get('group') == 'eval']
  found = {p['step']: p[metric] for p in points if metric in p}
  if not found:
    known = sorted({k for p in points for k in p} - {'group', 'step'})
    raise UserError(
      f'{path} has {len(points)} evaluations, none with {metric!r}; expected '
      f'one of {", ".join(known) or "their metrics"}. Correct --metric, or '
      'set EVAL_PERIOD in the run.'
    )
  return found


def speedup(
  scratch: Mapping[int, float], started: Mapping[int, float]
) -> dict[str, float | int | None]:
  """How much sooner the started run arrives.

  Args: {step: value}, best when highest.
  Returns: {'scratch_best', 'scratch_steps', 'started_best', 'started_steps',
    'comparable_steps' (None: not reached), 'convergence', 'comparable'}; a
    ratio is None where the run is there at step 0 or never.
  """
  best = lambda found: max(found.values())
  first = lambda found, value: min(s for s, x in found.items() if x >= value)
  wanted, reached = best(scratch), best(started)
  steps, own = first(scratch, wanted), first(started, reached)
  there = first(started, wanted) if reached >= wanted else None
  return {
    'scratch_best': wanted,
    'scratch_steps': steps,
    'started_best': reached,
    'started_steps': own,
    'comparable_steps': there,
    'convergence': steps / own if own else None,
    'comparable': steps / there if there else None,
  }


def table(found: Mapping) -> list[str]:
  """What `speedup` returns, in words."""
  there = found['comparable_steps']
  times = lambda x: 'not defined' if x is None else f'{x:.2f} times'
  reached = 'not reached' if there is None else f'{there:,} steps'
  return [
    f'from scratch   best {found["scratch_best"]:.2f} at '
    f'{found["scratch_steps"]:,} steps',
    f'started        best {found["started_best"]:.2f} at '
    f'{found["started_steps"]:,} steps',
    f'convergence    {times(found["convergence"])} as fast',
    f'comparable     {reached}: {times(found["comparable"])} as fast',
  ]
