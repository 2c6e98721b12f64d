"""`Projector`: a prompt of one base made into one of another, learned.

    flat        x [P Hs] -> Linear(hidden) -> act -> Linear(Q Ht) -> [Q,Ht]
    per token   each row: Linear(hidden) -> act -> Linear(Ht)
    hidden=None one Linear, then act

then, if asked, LayerNorm of each row over Ht. The paper's form is flat, with
a hidden layer and the norm.
Source: Su et al. 2022, section 4.2, and its released code: leaky_relu is the
base-to-base projector, tanh the one from base to large; without the norm it
is the one trained by distance and that of version 2.0.
Departures: lengths and widths are arguments; there P = 100 is written in.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from prompt_jax import files, params
from prompt_jax.errors import UserError
from prompt_jax.prompts.linear import Linear, layer_norm
from prompt_jax.typing import Array, Float

_ACTIVATIONS = {
  'leaky_relu': functools.partial(nn.leaky_relu, negative_slope=0.01),
  'tanh': nn.tanh,
  'relu': nn.relu,
}
_INITS = {
  'uniform': None,  # PyTorch's, U(-1/sqrt(in), 1/sqrt(in))
  'normal': nn.initializers.normal(1.0),  # released recipe of T5 targets
}
ACTIVATIONS, INITS = tuple(_ACTIVATIONS), tuple(_INITS)


class Projector(nn.Module):
  """A network from prompts [P,Hs] to prompts [Q,Ht].

  Args:
    length: Q. width: Ht.
    hidden: units of the hidden layer; None is none.
    activation: 'leaky_relu', 'tanh' or 'relu'.
    norm: whether each row is normalised at the end.
    flat: whether all rows go through the network together.
    scaled: divides a source prompt by its norm first, which keeps a step of
      the first layer small (see `collapse`).
    kernels: how they start, 'uniform' or 'normal'.
  """

  length: int
  width: int
  hidden: int | None = 768  # released code, base to base
  activation: str = 'leaky_relu'
  norm: bool = True
  flat: bool = True
  scaled: bool = False
  kernels: str = 'uniform'

  def check(self) -> None:
    """Raises UserError for a word or size that is not known."""
    for name, words in ('activation', ACTIVATIONS), ('kernels', INITS):
      word = getattr(self, name)
      if word not in words:
        raise UserError(
          f'Projector got {name}={word!r}; expected one of '
          f'{", ".join(words)}. Nearest: '
          f'{params.nearest(str(word), words, 1)[0]!r}.'
        )
    if self.length < 1:
      raise UserError(
        f'Projector got length={self.length}; expected at least 1 row, as the '
        'prompts that it is to make. Correct --length.'
      )
    if self.hidden is not None and self.hidden < 1:
      raise UserError(
        f'Projector got hidden={self.hidden}; expected at least 1 unit, or '
        'None for a single layer. Correct --hidden.'
      )

  @nn.compact
  def __call__(self, prompts: Float[Array, 'S P G']) -> Float[Array, 'S Q H']:
    """Args: prompts float32[S,P,Hs]. Returns: float32[S,Q,Ht].

    Raises: UserError if rows are mapped one by one and P is not Q.
    """
    self.check()
    x, act = prompts, _ACTIVATIONS[self.activation]
    if not self.flat and x.shape[1] != self.length:
      raise UserError(
        f'A projector that maps row by row got prompts {list(x.shape[1:])}; '
        f'expected {self.length} rows, as many as it makes. Give '
        f'--length={x.shape[1]}, or a flat projector.'
      )
    if self.scaled:
      square = (x**2).sum(axis=(1, 2), keepdims=True)
      x = x / jax.numpy.sqrt(square + 1e-12)  # of a prompt of zeros too
    if self.flat:
      x = x.reshape(len(x), -1)  # [S, P Hs]
    size = self.length * self.width if self.flat else self.width
    dense = functools.partial(Linear, axes=(None, None))
    init = _INITS[self.kernels]
    bias = dict(init=init, bias_init=_bias_init(x.shape[-1]))
    if self.hidden is None:
      x = act(dense(size, **bias, name='second')(x))
    else:
      x = act(dense(self.hidden, **bias, name='first')(x))
      bias['bias_init'] = _bias_init(self.hidden)
      x = dense(size, **bias, name='second')(x)
    x = x.reshape(len(x), self.length, self.width)
    return layer_norm('layer_norm')(x) if self.norm else x


def _bias_init(fan_in: int):
  """PyTorch's, which the release keeps where it draws the weights anew."""
  limit = fan_in**-0.5
  return lambda rng, shape: jax.random.uniform(
    rng, shape, jax.numpy.float32, -limit, limit
  )


def initial(projector: Projector, shape: tuple[int, int], seed: int = 0):
  """Fresh parameters {path: float32 array} for source prompts [P,Hs]."""
  source = np.zeros((1, *shape), 'f4')
  made = jax.jit(lambda key: projector.init(key, source))(jax.random.key(seed))
  return params.flatten(nn.meta.unbox(made)['params'])


@functools.lru_cache(maxsize=8)
def _applied(projector: Projector):
  """`projector.apply`, compiled once a shape."""
  return jax.jit(projector.apply)


def apply(projector: Projector, flat: Mapping, prompts: Any) -> np.ndarray:
  """What a projector makes of prompts.

  Args:
    projector: the module. flat: its parameters {path: array}.
    prompts: float[S,P,Hs].
  Returns: float32[S,Q,Ht].
  Raises: UserError for prompts of another shape than it was made for.
  """
  prompts = np.asarray(prompts, np.float32)
  wide, first = source_width(flat), prompts.shape[1:]
  given = first[0] * first[1] if projector.flat else first[1]
  if given != wide:
    want = f'P x Hs = {wide}' if projector.flat else f'Hs = {wide}'
    raise UserError(
      f'The source prompts are {list(first)}; the projector expects {want}, '
      'the length and width it was trained with. Give prompts of its source '
      'base and of that length.'
    )
  variables = {'params': params.unflatten(dict(flat))}
  return np.asarray(_applied(projector)(variables, prompts), np.float32)


def source_width(flat: Mapping) -> int:
  """The inputs of the first layer: P Hs of a flat projector, else Hs."""
  first = 'first' if 'first/kernel' in flat else 'second'
  return int(flat[f'{first}/kernel'].shape[0])


def save(
  path: str | os.PathLike, projector: Projector, flat: Mapping, sidecar: Mapping
) -> None:
  """Writes projector.npz and projector.json, its fields and a sidecar."""
  path = pathlib.Path(path)
  fields = {
    f.name: getattr(projector, f.name)
    for f in dataclasses.fields(projector)
    if f.name not in ('parent', 'name')
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.stem}.{os.getpid()}.npz')
  try:
    np.savez(beside, **{k: np.asarray(x, 'f4') for k, x in flat.items()})
    files.write_json(
      path.with_suffix('.json'), {'projector': fields, **sidecar}
    )
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> tuple[Projector, params.Flat, dict]:
  """Reads what `save` wrote: (projector, {path: array}, sidecar).

  Raises: UserError if a file is missing or not a projector's.
  """
  path = pathlib.Path(path).expanduser()
  try:
    sidecar = json.loads(path.with_suffix('.json').read_bytes())
    projector = Projector(**sidecar.pop('projector'))
    with np.load(path, allow_pickle=False) as stored:
      flat = {name: stored[name] for name in stored.files}
    source_width(flat)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path} cannot be read as a projector: {error!r}. Expected the .npz of '
      '`prompt-jax transfer project` with its .json beside it. Give '
      'OUTPUT/projector.npz of that command.'
    ) from error
  return projector, flat, sidecar
