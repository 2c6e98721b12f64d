"""Checkpoints of a run: what moves, and a manifest of what does not.

    checkpoints/<step>/state      trainable, optimizer state, step, rng
    checkpoints/<step>/manifest   method, config, versions, digest of the base,
                                  data position, best metric so far

Values are restored in this order: the run's own newest whole checkpoint, then
an initial prompt file (an initializer that reads one), then the initializer.
A checkpoint is written under a temporary name and renamed when complete; one
that cannot be read is passed over for the one before it, with a warning, and
makes room for the next that is saved.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import Any

from absl import logging
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.training.state import State


def named(state: Any) -> tuple[dict[str, Any], Any]:
  """A state as {slash name: leaf} in tree order, and its tree."""
  leaves, tree = jax.tree_util.tree_flatten_with_path(state)
  names = [
    jax.tree_util.keystr(k, simple=True, separator='/') for k, _ in leaves
  ]
  return dict(zip(names, [leaf for _, leaf in leaves], strict=True)), tree


@dataclasses.dataclass
class _Best:
  """Preserves one step: the best, as the newest manifest names it.

  Orbax's own policy would rank by the metrics stored with each checkpoint; it
  keeps the later of two equals, and one that SIGTERM saved before it was
  evaluated has none.
  """

  step: int | None = None

  def should_preserve(self, checkpoints, *, context):
    del context
    return [each.step == self.step for each in checkpoints]


class Checkpoints:
  """The checkpoints of one run, newest and best kept.

  Args:
    folder: where they live; made when first written.
    keep: how many of the newest stay, besides the best; None: all.
  """

  def __init__(self, folder: str, keep: int | None = 1):
    if keep is not None and (type(keep) is not int or keep < 1):
      raise UserError(
        f'KEEP is {keep!r}; expected a whole number of checkpoints, at least '
        '1, or None for all.'
      )
    self._best = _Best()
    self._damaged: set[int] = set()
    policies = [preservation_policy.LatestN(keep), self._best]
    self.folder = pathlib.Path(os.path.abspath(folder))
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        create=True,
        enable_async_checkpointing=False,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
      ),
    )

  def steps(self) -> list[int]:
    """Steps of the committed checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, state: State, manifest: Mapping[str, Any]) -> None:
    """Writes one checkpoint; complete when this returns.

    Args:
      state: what to save; nothing is written if its step is there already.
      manifest: JSON values; the checkpoint of step manifest['best']['step']
        outlives those that are merely old.
    Raises: UserError if it cannot be written (a full disk); the checkpoints
      before it are whole.
    """
    leaves, _ = named(state)
    step = int(state.step)
    self._best.step = manifest.get('best', {}).get('step')
    try:
      # one that cannot be read would bar its step, and pass for the newest
      for damaged in self._damaged & set(self.steps()):
        self._manager.delete(damaged)
      if step in self.steps():
        return
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(params.unflatten(leaves)),
          manifest=ocp.args.JsonSave(dict(manifest)),
        ),
        force=True,
      )
    except (OSError, ValueError) as error:
      raise UserError(
        f'The checkpoint of step {step} could not be written to '
        f'{self.folder}: {error}. Expected a folder with room to write. '
        f'Whole checkpoints there: {self.steps() or "none"}; free some space '
        'and run the same command to go on from the newest.'
      ) from error

  def manifest(self, step: int) -> dict[str, Any]:
    """The manifest of one checkpoint."""
    return self._manager.restore(
      step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
    )['manifest']

  def restore(
    self, like: State, step: int | None = None
  ) -> tuple[State, dict[str, Any]] | None:
    """The newest whole checkpoint.

    Args:
      like: a state of the same structure whose leaves have shape, dtype and
        sharding (arrays or ShapeDtypeStructs): the sharding asked for, which
        need not be the one it was saved with.
      step: restore this one; None is the newest, or the one before it where
        that is damaged.
    Returns: (state, manifest), or None where there is no checkpoint.
    Raises: UserError if there are checkpoints and none can be read.
    """
    wanted, tree = named(like)
    target = params.unflatten(
      {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for name, x in wanted.items()
      }
    )
    failures = []
    steps = reversed(self.steps()) if step is None else [step]
    for step in steps:
      try:
        found = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target),
            manifest=ocp.args.JsonRestore(),
          ),
        )
      # Orbax and tensorstore raise many types for a damaged file.
      except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        failures.append(f'step {step}: {reason}')
        self._damaged.add(step)
        logging.warning(
          'checkpoint of step %d in %s cannot be read (%s); trying the one '
          'before it',
          step,
          self.folder,
          reason,
        )
        continue
      leaves = params.flatten(found['state'])
      state = jax.tree.unflatten(tree, [leaves[name] for name in wanted])
      return state, found['manifest']
    if failures:
      raise UserError(
        f'No checkpoint in {self.folder} can be read ({"; ".join(failures)}). '
        'Expected at least one whole checkpoint. Delete the folder to start '
        'anew, or give another MODEL_DIR.'
      )
    return None

  def close(self) -> None:
    self._manager.close()
