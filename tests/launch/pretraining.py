"""A pretraining run small enough for a test."""

import gin
import jax

from launch.pretrain import start
from prompt_jax import ginfiles, train
from prompt_jax.training import sharding
from tests.launch import mixtures

MODEL = f"""
from __gin__ import dynamic_registration
include 'models/architectures/t5_1_1.gin'
NUM_EMBEDDINGS = {mixtures.ROWS}
EMBED_DIM = {mixtures.WIDTH}
MLP_DIM = 11
NUM_HEADS = 5
HEAD_DIM = 3
NUM_ENCODER_LAYERS = 1
NUM_DECODER_LAYERS = 1
VOCABULARY = 'shipped'
INITIAL_CHECKPOINT_PATH = None
"""


def began(folder) -> None:
  """Writes model.gin, the mixture and the parameters to start from."""
  (folder / 'model.gin').write_text(MODEL)
  mixtures.write(folder)
  start.main(
    [
      f'--gin_file={folder}/model.gin',
      *('--embeddings', f'{folder}/embedding_{mixtures.WIDTH}.npy'),
      *('--out', f'{folder}/start'),
    ]
  )


def ran(folder, name, begin, source=None):
  """Trains two steps in folder/name: (run, summary).

  Args: begin is the folder of its base; source is SOURCE_START.
  """
  ginfiles.parse(
    [f'{folder}/model.gin', 'launch/pretrain/pretrain.gin'],
    [
      f"MODEL_DIR='{folder}/{name}'",
      f"START='{folder}/{begin}'",
      f"MIXTURE='{folder}/mixture.npz'",
      f'SOURCE_START={source!r}',
      f'programmed.Programmed.length={mixtures.PROTOTYPES}',
      'rows.Rows.batch_scale=0.2',
      "ACTIVATION_DTYPE='float32'",
      "SCHEDULE='constant'",
      'TRAIN_STEPS=2',
    ],
  )
  run = gin.get_configurable(train.Run)()
  run.mesh = sharding.make_mesh(1, jax.devices()[:1])
  return run, train.train(run)
