"""Starts a larger model from the newest checkpoint of a smaller run.

    python -m launch.pretrain.grow --model_dir runs/pretrain/mini \
      --gin_file=models/midi.gin --embeddings embedding_256.npy --out START

The larger model computes nearly what the smaller one does, and has room to
learn more: growth that keeps the function, after Net2Net (Chen et al. 2016).

    residual stream  [a; b]: a as before, b from the further components of the
                     embeddings, standard deviation `BESIDE` times that of a
    products         what read a reads a alone; new columns (heads, MLP units)
                     read a and b, random; nobody reads new columns yet, and
                     nothing but the embedding writes to b
    norms            scale times sqrt((1 + BESIDE^2) h / H), as a mean over the
                     wider stream is smaller
    new layers       behind the old ones; what they write is zero

Writes START/, the parameters of step 0, and START/source.npz, those of the
source, which `Programmed.start` reads.
"""

import argparse
from collections.abc import Sequence
import math
import pathlib
import re

import gin
import jax
import numpy as np

from launch.pretrain import archive, ship, start
from prompt_jax import ginfiles, params
from prompt_jax.errors import UserError
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.t5 import T5
from prompt_jax.training import state as states

SOURCE = 'source.npz'
BESIDE = 0.3  # little enough that the norms are 4 % off at most
_PREFIX = 'encoder/prompt/'
_EMBEDDING = 'token_embedder/embedding'
# What writes to the residual stream, [.., H]; rows of new columns are zero.
_WRITES = re.compile(r'.*/(out|wo)/kernel')


def beside(table: np.ndarray, old: np.ndarray) -> np.ndarray:
  """Embeddings [V,H]: the old [V,h], and the table's columns from h on."""
  width = old.shape[1]
  rest = table[:, width:]
  return np.concatenate([old, rest * (BESIDE * old.std() / rest.std())], axis=1)


def widened(path: str, old: np.ndarray, fresh: np.ndarray) -> np.ndarray:
  """One parameter of the larger model.

  Args:
    path: its name. old: of the smaller model. fresh: random, of the new shape.
  """
  corner = tuple(slice(0, n) for n in old.shape)
  if path.endswith('/scale'):
    grown = np.full(fresh.shape, old.mean(), np.float32)
    grown[corner] = old
    share = len(old) / len(fresh)
    return grown * math.sqrt((1 + BESIDE**2) * share)
  if path.endswith('/rel_embedding'):  # [N,buckets]: new heads look alike
    return np.resize(old, fresh.shape)
  if path.endswith('logits_dense/kernel') or _WRITES.fullmatch(path):
    grown = np.zeros_like(fresh)
  else:  # reads the stream: old columns do not read b, new ones do
    grown = fresh.copy()
    grown[:, : old.shape[1]] = 0.0
  grown[corner] = old
  return grown


def grow(
  old: params.Flat, fresh: params.Flat, table: np.ndarray
) -> dict[str, np.ndarray]:
  """{path: array} of the larger model.

  Args:
    old: {path: array} of the smaller model.
    fresh: {path: array} of the larger one, random.
    table: embeddings [V,H].
  Raises: UserError if a parameter of the smaller model has no place.
  """
  for path, x in old.items():
    new = fresh.get(path)
    if new is None or any(
      n < m for n, m in zip(new.shape, x.shape, strict=True)
    ):
      raise UserError(
        f'{path} {list(x.shape)} has no place in the larger model, which has '
        f'{"none" if new is None else list(new.shape)}; expected at least as '
        'many layers, heads and columns. Choose another --gin_file.'
      )
  grown = {}
  for path, x in fresh.items():
    x = np.asarray(x, np.float32)
    if path == _EMBEDDING:
      x = beside(table, np.asarray(old[path], np.float32))
    elif path in old:
      x = widened(path, np.asarray(old[path], np.float32), x)
    elif _WRITES.fullmatch(path):
      x = np.zeros_like(x)
    grown[path] = x
  return grown


def main(argv: Sequence[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  add = parser.add_argument
  add('--model_dir', required=True, type=pathlib.Path, help='of the small run')
  add('--gin_file', action='append', required=True, help='of the larger model')
  add('--embeddings', required=True, type=pathlib.Path, help='.npy [V,H]')
  add('--out', required=True, type=pathlib.Path, help='folder to write')
  add('--seed', type=int, default=0, help='of the new weights')
  args = parser.parse_args(argv)
  _, old = ship.newest(ship.configured(args.model_dir))
  source = {
    path.removeprefix(_PREFIX): np.asarray(x, np.float32)
    for path, x in old.items()
    if path.startswith(_PREFIX)
  }
  old = {path: x for path, x in old.items() if not path.startswith(_PREFIX)}
  ginfiles.parse(args.gin_file, ['DROPOUT_RATE=0.0'])
  config = gin.get_configurable(T5Config)()
  model = T5(config)
  shapes, _ = states.abstract(model)
  fresh = states.initial(model, jax.random.key(args.seed), list(shapes))
  grown = grow(old, fresh, start.table(args.embeddings, config))
  pretrained.save(str(args.out), grown, {'t5': pretrained.shapes_of(config)})
  wide = {
    name: np.pad(
      x, [(0, 0)] * (x.ndim - 1) + [(0, config.d_model - x.shape[-1])]
    )
    for name, x in source.items()
  }
  archive.save(args.out / SOURCE, wide)


if __name__ == '__main__':
  main()
