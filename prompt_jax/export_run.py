"""`prompt-jax export`: what a run trained, out of its checkpoint."""

import os

import jax.numpy as jnp
import numpy as np

from prompt_jax import export, params, tuned
from prompt_jax import merge as merging
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved as inserts
from prompt_jax.session import Session
from prompt_jax.t5 import pretrained
from prompt_jax.training import state as states
from prompt_jax.training.loop import Interruption


def export_run(
  run,
  output: str,
  step: int | None,
  whole: bool,
  dtype: str,
  merge: bool = False,
) -> list[str]:
  """Writes the prompts and inserts of a run, or one whole model.

  Args:
    run: the `train.Run` as it was trained.
    output: folder to write; it must not exist.
    step: of the checkpoint; None is the newest.
    whole: write base and trained weights in our own layout instead.
    dtype: of the whole model's weights.
    merge: write such a model with the inserts folded into its kernels, see
      `merge.merged`. Prompts are not weights: export them without it.
  Returns: the files or the folder written.
  Raises: UserError if there is no such checkpoint, `output` exists, or the
    method has what a whole model has no place for.
  """
  if os.path.exists(output):
    raise UserError(f'{output} exists; expected a new folder for --output.')
  session = Session(run, Interruption())
  steps = session.checkpoints.steps()
  if not steps or (step is not None and step not in steps):
    raise UserError(
      f'{run.folder} has the checkpoints {steps or "(none)"}; expected '
      f'{step if step is not None else "at least one"}.'
    )
  state, _ = session.restore(step)
  flat = params.merge(state.trainable, session.frozen)
  if not whole and not merge:
    return _parts(session, output, int(state.step), flat)
  plain = states.base_shapes(run.model)
  beside = [p for p in flat if p not in plain and '/prompt/' not in p]
  if run.base is not None:
    # as stored: the run holds it rounded to the activation dtype
    kept = [path for path in plain if path in session.frozen]
    flat |= pretrained.read(run.base, kept)
  if merge:
    flat = merging.merged(run.model, flat)
  elif beside:
    raise UserError(
      f'This run has parameters that a plain T5 has no place for: '
      f'{", ".join(beside[:3])}; expected base weights and prompts only. Use '
      '--merge for inserts that can be folded into the base (LoRA, IA3).'
    )
  arrays = {p: np.asarray(flat[p], jnp.dtype(dtype)) for p in plain}
  config = {
    't5': pretrained.shapes_of(run.model.config),
    'step': int(state.step),
    tuned.TUNED_FROM: session.digest,
    'versions': export.versions(),
  }
  pretrained.save(output, arrays, config)
  return [output]


def _parts(session: Session, output: str, step: int, flat) -> list[str]:
  """Writes the inserts and the prompts of a run; their files."""
  run, written = session.run, []
  sidecar = session.sidecar(step, {})
  if inserts.own(flat):
    written.append(inserts.save(output, run.model.inserts, flat, sidecar))
  if export.sources(run.model) or not written:
    written += export.write(output, run.model, flat, run.dataset.tasks, sidecar)
  return written
