"""Export: a trained source becomes one plain [P,H] file a task.

    prompts/<step>/<task>.npy   float32 [P,H], as Lester et al. released them
    prompts/<step>/<task>.json  what it is, and which base it belongs to

A source that is not instance-wise is run once on all task ids, so whatever
network it holds is folded in: logits with the method equal logits with a
plain `Prompt` of the exported rows.
"""

from collections.abc import Mapping, Sequence
import importlib.metadata
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompts import parts, saved

PACKAGES = ('prompt_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
  """Versions of the packages that decide what a run computes."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'  # a checkout on the path
  return found


def sources(model) -> dict[str, object]:
  """{'encoder' | 'decoder': an unbound source} of a model."""
  made = {}
  for stack in ('encoder', 'decoder'):
    factory = getattr(model, f'{stack}_prompt', None)
    if factory is not None:
      made[stack] = factory()
  return made


def exportable(model) -> bool:
  """Whether the model's prompts can be written as plain arrays."""
  found = sources(model)
  return bool(found) and not any(s.instance_wise for s in found.values())


def prompt_arrays(model, flat: Mapping, tasks: Sequence[str]):
  """What the model's sources make of each task.

  Args:
    model: a prompted model.
    flat: its parameters {path: array}; those of the sources suffice.
    tasks: names, in the order of their ids.
  Returns: {stack: {task: float32[P,H]}}, one row of each stack.
  Raises: UserError if there is no prompt, or a source reads its input.
  """
  found = sources(model)
  if not found:
    raise UserError(
      'This model has no prompt to export; expected a method with a prompt '
      'source (methods/prompt.gin). `prompt-jax export --whole` writes the '
      'whole model instead.'
    )
  reading = [type(s).__name__ for s in found.values() if s.instance_wise]
  if reading:
    raise UserError(
      f'{reading[0]} makes another prompt for every input; expected a source '
      'whose prompt depends on the task alone. Its parts are in '
      'MODEL_DIR/prompts/<step>/<stack>.npz.'
    )
  own = {p: x for p, x in flat.items() if p.split('/')[1] == 'prompt'}
  ids = jnp.arange(len(tasks), dtype=jnp.int32)
  rows = model.apply(
    {'params': params.unflatten(own)}, ids, method='prompt_rows'
  )
  return {
    stack: {
      task: np.asarray(jax.device_get(x[i]), np.float32)
      for i, task in enumerate(tasks)
    }
    for stack, x in rows.items()
  }


def write(
  folder: str, model, flat: Mapping, tasks: Sequence[str], sidecar: Mapping
) -> list[str]:
  """Writes plain prompts where the sources allow it, else the sources.

  Args, Returns: as `write_prompts`.
  """
  if sources(model) and not exportable(model):
    return write_parts(folder, model, flat, {**sidecar, 'tasks': [*tasks]})
  return write_prompts(folder, model, flat, tasks, sidecar)


def write_prompts(
  folder: str, model, flat: Mapping, tasks: Sequence[str], sidecar: Mapping
) -> list[str]:
  """Writes `<task>.npy` and `<task>.json` for every task.

  A prompt of the decoder goes to `<task>.decoder.npy`.

  Args:
    folder: where to, such as MODEL_DIR/prompts/<step>.
    model, flat, tasks: see `prompt_arrays`.
    sidecar: what all the files have in common (base, step, metrics, ...).
  Returns: the paths of the .npy files.
  """
  written = []
  for stack, arrays in prompt_arrays(model, flat, tasks).items():
    for task, array in arrays.items():
      suffix = '' if stack == 'encoder' else f'.{stack}'
      path = pathlib.Path(folder) / f'{task}{suffix}.npy'
      own = {
        'task': task,
        **_place(model, stack),
        'length': array.shape[0],
        'width': array.shape[1],
        'mean_row_norm': float(np.linalg.norm(array, axis=1).mean()),
      }
      saved.save(str(path), array, {**sidecar, **own})
      written.append(str(path))
  return written


def write_parts(
  folder: str, model, flat: Mapping, sidecar: Mapping
) -> list[str]:
  """Writes `<stack>.npz` and `<stack>.json` of every source, as it is.

  For models with a source that reads its input, which no [P,H] can hold.

  Args: as `write_prompts`.
  Returns: the paths of the .npz files.
  """
  written = []
  for stack, source in sources(model).items():
    path, under = pathlib.Path(folder) / f'{stack}.npz', f'{stack}/prompt/'
    own = {
      name.removeprefix(under): jax.device_get(leaf)
      for name, leaf in flat.items()
      if name.startswith(under)
    }
    parts.save(path, source, own, {**sidecar, **_place(model, stack)})
    written.append(str(path))
  return written


def _place(model, stack: str) -> dict:
  """Where a prompt belongs: stack, layers it is cut for, place in the input."""
  about = {'stack': stack, 'depth': getattr(model, f'{stack}_depth', 1)}
  if about['depth'] > 1:
    about['deeper'] = model.deeper
  if stack == 'encoder' and model.where != 'prefix':
    about['where'] = model.where
  if stack == 'encoder' and model.attention is not None:
    about['attention'] = sorted(model.attention)
  return about


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('export')
