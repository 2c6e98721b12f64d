"""The prompt inside a T5X checkpoint.

    target/encoder/prompt/prompt/prompt   as Lester et al. 2021 trained it
    target/encoder/prompt/prompt          as this package names it

Only the prompt is read, in either layout of T5X.
Source: released code of Lester et al. 2021, checkpoints.
"""

import re

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.interop.content import Prompt
from prompt_jax.t5.t5x_checkpoint import Checkpoint

_PROMPT = re.compile(r'target/(encoder|decoder)/(.*/)?prompt')


def read(path: str, key: str | None = None) -> Prompt:
  """The prompt of a checkpoint.

  Args:
    path: the folder checkpoint_<step>, local or gs://bucket/...
    key: slash path of the array, with or without 'target/'; None takes the
      only one that is named as a prompt is.
  Raises: UserError if there is no checkpoint, no prompt or several in it.
  """
  checkpoint = Checkpoint(path)
  stored = checkpoint.shapes
  if key is None:
    found = [
      name
      for name, leaf in stored.items()
      if _PROMPT.fullmatch(name) and len(leaf.shape) == 2
    ]
  else:
    found = [name for name in (key, f'target/{key}') if name in stored]
  if len(found) != 1:
    close = params.nearest(key or 'target/encoder/prompt/prompt', list(stored))
    there = ', '.join(f'{n} {list(stored[n].shape)}' for n in found or close)
    what = f'no array {key!r}' if key is not None else f'{len(found)} prompts'
    raise UserError(
      f'{path} holds {what}; expected one, such as '
      f'target/encoder/prompt/prompt/prompt [P, H]. Nearest: {there}. Name it '
      'with --key.'
    )
  about = {'step': checkpoint.step} if 'state/step' in stored else {}
  if found[0].startswith('target/decoder/'):
    about['stack'] = 'decoder'
  return Prompt(checkpoint.read(found[0]), about)
