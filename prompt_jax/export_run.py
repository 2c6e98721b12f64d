"""`prompt-jax export`: what a run trained, out of its checkpoint."""

import os

import jax.numpy as jnp
import numpy as np

from prompt_jax import export, params
from prompt_jax.errors import UserError
from prompt_jax.session import Session
from prompt_jax.t5 import pretrained
from prompt_jax.training import state as states
from prompt_jax.training.loop import Interruption


def export_run(
  run, output: str, step: int | None, whole: bool, dtype: str
) -> list[str]:
  """Writes the prompts of a run, or base and trained weights as one model.

  Args:
    run: the `train.Run` as it was trained.
    output: folder to write; it must not exist.
    step: of the checkpoint; None is the newest.
    whole: write the whole model in our own layout instead of the prompts.
    dtype: of the whole model's weights.
  Returns: the files or the folder written.
  Raises: UserError if there is no such checkpoint, or `output` exists.
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
  if not whole:
    sidecar = session.sidecar(int(state.step), {})
    return export.write_prompts(
      output, run.model, flat, run.dataset.tasks, sidecar
    )
  plain = states.base_shapes(run.model)
  beside = [p for p in flat if p not in plain and '/prompt/' not in p]
  if beside:
    raise UserError(
      f'This run has parameters that a plain T5 has no place for: '
      f'{", ".join(beside[:3])}; expected base weights and prompts only.'
    )
  arrays = {p: np.asarray(flat[p], jnp.dtype(dtype)) for p in plain}
  config = {
    't5': pretrained.shapes_of(run.model.config),
    'step': int(state.step),
    'versions': export.versions(),
  }
  pretrained.save(output, arrays, config)
  return [output]
