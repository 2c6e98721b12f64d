"""What a run says of itself: as it starts, as it ends, and summary.json."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

import jax

from prompt_jax import files, params
from prompt_jax.startup import STARTUP


def say_start(
  run, cost: Mapping, start: int, seconds: float, lengths: Sequence[int]
) -> None:
  """How long the run is, and what one step costs.

  Args:
    run: the `train.Run`.
    cost: of a step, see `Program.cost`.
    start: step that it goes on from.
    seconds: that compiling the step has taken.
    lengths: of inputs, that batches may have.
  """
  steps, size = run.plan.train_steps, run.dataset.batch_size
  said = f'{steps:,} steps of {size} examples'
  if run.dataset.num_examples is not None:
    epochs = steps / run.dataset.steps_per_epoch
    said += f' = {epochs:.1f} epochs of {run.dataset.num_examples:,} examples'
  if start:
    said += f', going on at step {start:,}'
  if len(lengths) > 1:
    shown = ', '.join(map(str, sorted(lengths)))
    said += f'\nbatches of {shown} input tokens, each as its examples need'
  print(
    f'{said}\none step: {cost["flops"] / 1e9:.2f} GFLOP, '
    f'{cost["peak_bytes"] / 2**20:.0f} MiB, compiled in '
    f'{seconds:.1f} s',
    flush=True,
  )


def say_end(run, step: int, best, reason: str, summary: Mapping) -> None:
  """How fast the run was, and why it stopped where it was not simply done."""
  pace, padded = summary['examples_per_second'], summary['padding_share']
  if pace:
    said = f'{pace:.1f} examples/s'
    if padded is not None:
      said += f', {100 * padded:.0f} % of the input positions padding'
    print(f'{said}', flush=True)
  if reason == 'SIGTERM':
    print(f'SIGTERM: saved step {step}; run the same command to go on')
  elif reason == 'patience':
    print(
      f'stopped at step {step}: {run.plan.best_metric} has not risen above '
      f'{best.value:.2f} (step {best.step}) for {run.plan.patience} evaluations'
    )


def told(session, ledger, best, found: Mapping[str, Any]) -> dict[str, Any]:
  """Completes what a run returns, says it and writes it.

  Args:
    session: the `session.Session` of the run.
    ledger: its account, see `ledger.Ledger`.
    best: the best evaluation.
    found: what `train.train` knows of this life.
  """
  run, trainable = session.run, params.count(session.trainable)
  whole = {
    **found,
    'examples_per_second': ledger.pace() * run.dataset.batch_size,
    'phases': STARTUP.seconds() if found['steps'] else None,
    'trainable': trainable,
    'total': trainable + params.count(session.frozen),
    'base_digest': session.digest,
    'activation_dtype': session.run.model.config.activation_dtype,
  }
  say_end(run, whole['step'], best, whole['reason'], whole)
  write(run, whole)
  ledger.say()
  return whole


def write(run, summary: Mapping[str, Any]) -> None:
  """Writes MODEL_DIR/summary.json, unless this life made no step."""
  if jax.process_index() == 0 and summary['steps']:
    # what is no number or text of JSON is of no use in the file
    known = json.loads(json.dumps(summary, default=str))
    files.write_json(run.folder / 'summary.json', known)
