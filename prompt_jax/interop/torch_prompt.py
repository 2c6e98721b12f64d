"""Prompts in files of `torch.save`: ATTEMPT and Prompt-Transferability.

    prefix_embeddings.pt, source_prompts/<task>_prompt.pt   one tensor [P,H]
    task_prompt_emb/<name>/task_prompt                      one tensor [P,H]
    <epoch>_task_prompt.pkl                                 'model' among others
    checkpoints of Prompt-Transferability 2.0               '...soft_embeds'

Source: released code of Asai et al. 2022 and of Su et al. 2022.
"""

import pathlib
import re

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.interop.content import Prompt
from prompt_jax.interop.torch_file import TorchFile

# What those two call their prompt.
_PROMPT = re.compile(
  r'(.*\.)?(model|prefix_shared|soft_embeds|prompt_embeddings(\.weight)?)|'
)
# Files of ATTEMPT beside its prompts; two of them are [m,H] as a prompt is.
_ATTENTION = re.compile(
  r'attn_(W_down|W_up|Wa_weights)\.pt|layer_norm_(weight|bias)\.pt'
)


def read(path: str, key: str | None = None) -> Prompt:
  """The prompt of a file.

  Args:
    path: the file.
    key: name of the tensor; None takes the one that is named as a prompt is,
      else the only tensor of two axes.
  Raises: UserError if the file has no such tensor or several.
  """
  if _ATTENTION.fullmatch(pathlib.Path(path).name) and key is None:
    raise UserError(
      f'{path} is a part of the attention of ATTEMPT; expected a prompt, '
      'prefix_embeddings.pt or <task>_prompt.pt beside it. If it is one all '
      "the same, give its name within the file: --key ''."
    )
  file = TorchFile(path)
  shapes = {name: list(t.shape) for name, t in file.tensors.items()}
  if key is None:
    flat = [name for name, shape in shapes.items() if len(shape) == 2]
    named = [name for name in flat if _PROMPT.fullmatch(name)]
    found = named or flat
  else:
    found = [key] if key in shapes else []
  if len(found) != 1:
    names = params.nearest(key or 'prompt_embeddings', list(shapes), 8)
    there = ', '.join(f'{n!r} {shapes[n]}' for n in names) or 'none'
    what = f'no tensor {key!r}' if key is not None else f'{len(found)} prompts'
    raise UserError(
      f'{path} holds {what}; expected one tensor [P, H]. Among its '
      f'{len(shapes)} tensors: {there}. Name one with --key.'
    )
  array = file.read(found[0])
  if array.ndim != 2:
    raise UserError(
      f'{found[0]!r} of {path} is {list(array.shape)}; expected [P, H]. A '
      'tensor [M, P, H] holds the prompts of M tasks: save each by itself.'
    )
  return Prompt(array)
