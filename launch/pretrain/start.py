"""Writes the parameters that pretraining starts from.

    python -m launch.pretrain.start --embeddings embedding_128.npy --out START \
      --gin_file=models/mini.gin

Random weights, but for the token embeddings, and the output matrix as their
transpose / sqrt(H): both start from knowledge.
"""

import argparse
import math

import gin
import jax
import numpy as np

from prompt_jax import ginfiles
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.t5 import T5
from prompt_jax.training import state


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--gin_file', action='append', required=True)
  parser.add_argument('--embeddings', required=True, help='.npy [V,H]')
  parser.add_argument('--out', required=True, help='folder to write')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  ginfiles.parse(args.gin_file, ['DROPOUT_RATE=0.0'])
  config = gin.get_configurable(T5Config)()
  model = T5(config)
  shapes, _ = state.abstract(model)
  flat = state.initial(model, jax.random.key(args.seed), list(shapes))
  flat = {path: np.asarray(leaf) for path, leaf in flat.items()}
  table = np.load(args.embeddings, allow_pickle=False)
  flat['token_embedder/embedding'] = table
  flat['decoder/logits_dense/kernel'] = table.T / math.sqrt(config.d_model)
  pretrained.save(args.out, flat, {'t5': pretrained.shapes_of(config)})


if __name__ == '__main__':
  main()
