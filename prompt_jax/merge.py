"""Inserts folded into the base: a plain model that computes the same.

    y = x W,  y' = f(y, x) linear     ->  W' = f(W, 1)
    y = h * s before wo               ->  wo' = s * wo, row by row

The fold runs the insert itself on the rows of the kernel, so it knows no
method: an insert says whether it is `linear`, and whether `elementwise`.
Source: Hu et al. 2021, section 4.1; Liu et al. 2022, section 3.3.
"""

from collections.abc import Mapping
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5.sites import select
from prompt_jax.training import state as states
from prompt_jax.training.step import forward

# Of the largest logit. Rounding stays below a tenth of it at 24 layers; a
# fold that went wrong is far above.
_TOLERANCE = 1e-4


def merged(model: nn.Module, flat: Mapping[str, jax.Array]) -> params.Flat:
  """The parameters of the model without its inserts, these folded in.

  Args:
    model: with inserts. A prompt source, if it has one, stays as it is.
    flat: its parameters {path: array}.
  Returns: {path: array}; kernels that took an insert in are float32.
  Raises: UserError if there is no insert, one cannot be folded, or the
    logits differ.
  """
  if not model.inserts:
    raise UserError(
      'This model has no inserts to merge; expected a method such as '
      'methods/lora.gin. `prompt-jax export --whole` writes a whole model.'
    )
  plain = model.clone(inserts=())
  result = {path: flat[path] for path in states.abstract(plain)[0]}
  with jax.default_matmul_precision('highest'):
    for site, index, make in _standing(model):
      _fold(result, flat, site, index, make(parent=None))
  _check_logits(model, flat, plain, result)
  return result


def _standing(model):
  """(site, its number there, factory), those on `hidden` last.

  An insert on `wo` reads what one on `hidden` made, so it is folded first.
  """
  found, count = [], {}
  met = select(model.inserts, model.config)
  for (_, make), at in zip(model.inserts, met, strict=True):
    for site in at:
      found.append((site, count.setdefault(site, 0), make))
      count[site] += 1
  return sorted(found, key=lambda each: _on_hidden(each[0]))


def _on_hidden(site: str) -> bool:
  return site.endswith('/hidden')


def _fold(result, flat, site, index, insert) -> None:
  """Replaces the kernel of a site by one that does its insert's work."""
  kind = type(insert).__name__
  folds = getattr(insert, 'linear', False)
  if _on_hidden(site):
    folds = folds and getattr(insert, 'elementwise', False)
  if not folds:
    raise UserError(
      f'{kind} at {site} cannot be merged; expected an insert that is linear '
      f'in what it reads (LoRA, IA3){_hint(site)}. T5 has no biases and no '
      'networks beside its layers to fold it into: keep the inserts.npz that '
      '`prompt-jax export` writes without --merge.'
    )
  under = f'{site}_insert' + (f'_{index}' if index else '') + '/'
  own = {
    path.removeprefix(under): x
    for path, x in flat.items()
    if path.startswith(under)
  }
  run = lambda y, x: insert.apply({'params': params.unflatten(own)}, y, x)[0]
  if _on_hidden(site):
    path = site.removesuffix('hidden') + 'wo/kernel'
    rows = jnp.asarray(result[path], jnp.float32).T  # [H,F]
    result[path] = run(rows[None], None).T
  else:
    path = f'{site}/kernel'
    kernel = jnp.asarray(result[path], jnp.float32)  # [D,F]
    result[path] = run(kernel[None], jnp.eye(kernel.shape[0])[None])


def _hint(site: str) -> str:
  return ' and, on hidden, feature by feature (IA3)' if _on_hidden(site) else ''


def _check_logits(model, flat, plain, result) -> None:
  """Raises UserError unless both models give the same logits."""
  config = dataclasses.replace(
    model.config, activation_dtype='float32', frozen_dtype=None
  )
  rng = np.random.default_rng(0)
  text = lambda length: rng.integers(2, config.vocab_size, (2, length))
  targets = text(5).astype(np.int32)
  batch = {
    'encoder_input_tokens': text(11).astype(np.int32),
    'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': targets,
    'task_ids': np.zeros(2, np.int32),
  }

  def logits(of, arrays):
    return np.asarray(jax.jit(functools.partial(forward, of))(arrays, batch))

  with jax.default_matmul_precision('highest'):
    wanted = logits(model.clone(config=config), dict(flat))
    got = logits(plain.clone(config=config), result)
  apart = np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())
  if not apart <= _TOLERANCE:
    raise UserError(
      f'The merged model gives logits that are {apart:.1e} of the largest '
      f'apart from those with inserts; expected at most {_TOLERANCE:.0e}. '
      'Keep the inserts as they are, for merging them would change the model.'
    )
