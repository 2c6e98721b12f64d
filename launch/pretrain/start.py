"""Writes the parameters that pretraining starts from.

    python -m launch.pretrain.start --embeddings embedding_128.npy --out START \
      --gin_file=models/mini.gin

Random weights, but for the token embeddings, and the output matrix as their
transpose / sqrt(H): both start from knowledge.
"""

import argparse
from collections.abc import Sequence
import math
import pathlib

import gin
import jax
import numpy as np

from prompt_jax import ginfiles
from prompt_jax.errors import UserError
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.t5 import T5
from prompt_jax.training import state


def table(path: pathlib.Path, config: T5Config) -> np.ndarray:
  """The embeddings of a model, float32[V,H].

  Raises: UserError if there is no such file, or it is of another shape.
  """
  rows, width = config.vocab_size, config.d_model
  found = 'is not there'
  if path.is_file():
    array = np.load(path, allow_pickle=False)
    if array.shape == (rows, width):
      return array
    found = f'is {list(array.shape)}'
  raise UserError(
    f'{path} {found}; expected the embeddings of this model, [{rows}, '
    f'{width}], given as --embeddings. Run `python -m '
    f'launch.pretrain.embeddings --rows {rows} --width {width}`.'
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--gin_file', action='append', required=True, help='of the model'
  )
  parser.add_argument(
    '--embeddings', required=True, type=pathlib.Path, help='.npy [V,H]'
  )
  parser.add_argument('--out', required=True, help='folder to write')
  parser.add_argument('--seed', type=int, default=0, help='of the weights')
  args = parser.parse_args(argv)
  ginfiles.parse(args.gin_file, ['DROPOUT_RATE=0.0'])
  config = gin.get_configurable(T5Config)()
  embeddings = table(args.embeddings, config)
  model = T5(config)
  shapes, _ = state.abstract(model)
  flat = state.initial(model, jax.random.key(args.seed), list(shapes))
  flat = {path: np.asarray(leaf) for path, leaf in flat.items()}
  flat['token_embedder/embedding'] = embeddings
  flat['decoder/logits_dense/kernel'] = embeddings.T / math.sqrt(config.d_model)
  pretrained.save(args.out, flat, {'t5': pretrained.shapes_of(config)})


if __name__ == '__main__':
  main()
