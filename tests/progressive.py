"""A tiny model of three layers over two, its scores, and runs in stages."""

import pathlib

import gin
import jax
import numpy as np

from prompt_jax import ginfiles, scores, train
from prompt_jax.t5 import pretrained
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from tests import tiny

DEPTH = dict(num_encoder_layers=3, num_decoder_layers=2)
# updates 1, 2 | 3, 4, 5 | 6, 7
STAGES = {
  'STAGE_DEPTHS': [0.34, 0.67, 1.0],
  'STAGE_WIDTHS': [0.5, 0.75, 1.0],
  'STAGE_STEPS': [2, 3, 2],
  'TRAIN_STEPS': 7,
}
BOUNDARIES = 2, 5


def write(folder: pathlib.Path, name: str) -> None:
  """Writes gin files, base and scores.npz; the base is random."""
  tiny.write_files(folder, name=name)
  sizes = {key.upper(): n for key, n in DEPTH.items()}
  model = folder / 'model.gin'
  text = model.read_text()
  for macro, count in sizes.items():
    text = text.replace(f'{macro} = 1', f'{macro} = {count}')
  model.write_text(text)
  plain = tiny.model(None, **DEPTH)
  rng = np.random.default_rng(3)
  flat = {
    path: rng.normal(size=x.shape).astype(np.float32) / 3
    for path, x in states.abstract(plain)[0].items()
  }
  config = {'t5': pretrained.shapes_of(plain.config)}
  pretrained.save(str(folder / 'base'), flat, config)
  table = {'encoder': rng.random((3, 11)), 'decoder': rng.random((2, 11))}
  scores.save(folder / 'scores.npz', table, {})


def command(folder, model_dir, run='runs/progressive.gin', **settings):
  """(gin files, bindings) of a run; its own stages unless it is told."""
  settings = {
    'INITIAL_CHECKPOINT_PATH': folder / 'base',
    'SCORES_FILE': folder / 'scores.npz',
    **STAGES,
    **settings,
  }
  if run == 'runs/train.gin':
    own = ('SCORES_FILE', 'EVAL_MODELS')
    for name in [n for n in settings if n in own or n.startswith('STAGE_')]:
      del settings[name]
  flags = tiny.flags(folder, model_dir, **settings)[1:]
  files = [f.split('=', 1)[1] for f in flags if f.startswith('--gin_file')]
  files = [run if name == 'runs/train.gin' else name for name in files]
  given = [f.removeprefix('--gin.') for f in flags if f.startswith('--gin.')]
  return files, given


def configured(folder, model_dir, *args, **settings) -> train.Run:
  """The run that `command` describes, on one device."""
  ginfiles.parse(*command(folder, model_dir, *args, **settings))
  run = gin.get_configurable(train.Run)()
  run.mesh = sharding.make_mesh(1, jax.devices()[:1])
  return run
