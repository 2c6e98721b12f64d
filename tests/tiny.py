"""A model, batches and gin files small enough for a test to train."""

import atexit
import functools
import os
import pathlib
import shutil
import tempfile
import types
from unittest import mock

import gin
import jax
import numpy as np

from prompt_jax import ginfiles
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import Prompt
from prompt_jax.stages import Schedule, Stage
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.training import loss, optim, sharding
from prompt_jax.training import state as states
from prompt_jax.training.adafactor import adafactor

SIZES = dict(
  vocab_size=263,  # bytes and three special ids are 259
  d_model=7,
  d_kv=3,
  d_ff=11,
  num_heads=5,
  num_encoder_layers=1,
  num_decoder_layers=1,
)
TABLE = [('encoder/prompt/.*', 0.3)]
LABELS = ['no', 'yes']

_MODEL = """
from __gin__ import dynamic_registration
include 'models/architectures/t5_1_1.gin'
NUM_EMBEDDINGS = 263
EMBED_DIM = 7
MLP_DIM = 11
NUM_HEADS = 5
HEAD_DIM = 3
NUM_ENCODER_LAYERS = 1
NUM_DECODER_LAYERS = 1
VOCABULARY = 'bytes'
INITIAL_CHECKPOINT_PATH = None
"""
_TASK = """
from __gin__ import dynamic_registration
from prompt_jax.tasks import local
local.FileTask:
  name = {name!r}
  files = {{'train': {train!r}, 'validation': {validation!r}}}
  labels = ['no', 'yes']
"""
SETTINGS = {
  'MIXTURE_OR_TASK_NAME': '@local.FileTask()',
  'TASK_FEATURE_LENGTHS': {'inputs': 13, 'targets': 5},
  'ACTIVATION_DTYPE': 'float32',
  'PROMPT_LENGTH': 3,
  'BATCH_SIZE': 8,
  'EVAL_BATCH_SIZE': 8,
  'TRAIN_STEPS': 4,
  'EVAL_PERIOD': 2,
  'LOG_PERIOD': 1,
}


def model(length=3, **sizes):
  """A tiny T5 1.1, with a prompt in its encoder unless `length` is None."""
  config = T5Config(**{**SIZES, **sizes})
  if length is None:
    return PromptEncoderDecoder(config)
  source = functools.partial(Prompt, length)
  return PromptEncoderDecoder(config, encoder_prompt=source)


def batch(rows=8, seed=0, vocab_size=263, inputs=13, targets=5):
  """Random tokens of random lengths, at least one a row."""
  rng = np.random.default_rng(seed)

  def tokens(longest):
    ids = rng.integers(2, vocab_size, (rows, longest), dtype=np.int32)
    ends = rng.integers(1, longest + 1, (rows, 1))
    return np.where(np.arange(longest) < ends, ids, 0).astype(np.int32)

  wanted = tokens(targets)
  return {
    'encoder_input_tokens': tokens(inputs),
    'decoder_input_tokens': np.pad(wanted[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': wanted,
    'decoder_loss_weights': (wanted > 0).astype(np.float32),
    'task_ids': np.zeros(rows, np.int32),
  }


def run(model, mesh=None, table=TABLE, **fields):
  """What `session.starting` and a training step read of a run."""
  fields = {
    'optimizer': adafactor(multiply_by_parameter_scale=False),
    'schedule': optim.schedule('constant'),
    'base': None,
    'seed': 0,
    'z_loss': 1e-4,
    'loss': loss.teacher_forced,
    'label_smoothing': 0.0,
    'loss_normalizing_factor': None,
    'microbatches': 1,
    'staging': Schedule((Stage(),), 1, model.config),
  } | fields
  mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
  return types.SimpleNamespace(model=model, mesh=mesh, table=table, **fields)


def write_files(folder, rows=24, name=None) -> list[str]:
  """A model file and a task file of gin; the paths to give to --gin_file.

  Args:
    folder: where to; made if need be.
    rows: examples of the training split; validation has 10.
    name: of the task; by default the folder tells.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  files = {}
  for split, count in ('train', rows), ('validation', 10):
    lines = [f'film {i * i}\t{LABELS[i % 3 == 0]}' for i in range(count)]
    files[split] = str(folder / f'{split}.tsv')
    text = '\n'.join(['text\tlabel', *lines]) + '\n'
    pathlib.Path(files[split]).write_text(text)
  name = name or ''.join(c if c.isalnum() else '_' for c in str(folder))
  (folder / 'model.gin').write_text(_MODEL)
  (folder / 'task.gin').write_text(_TASK.format(name=name, **files))
  return [str(folder / 'model.gin'), str(folder / 'task.gin')]


def flags(folder, model_dir, method='prompt', command='train', **settings):
  """The arguments of a `prompt-jax train` over files of `write_files`."""
  settings = {**SETTINGS, 'MODEL_DIR': str(model_dir), **settings}
  if method == 'full':
    settings.pop('PROMPT_LENGTH')
  files = [
    *(f'{folder}/model.gin', f'{folder}/task.gin'),
    *(f'methods/{method}.gin', 'runs/train.gin'),
  ]
  return [
    command,
    *(f'--gin_file={file}' for file in files),
    *(f'--gin.{k}={v}' for k, v in settings.items() if v is not None),
  ]


def configured(folder, model_dir, **settings):
  """The `train.Run` that `flags` describe."""
  from prompt_jax import train

  arguments = flags(folder, model_dir, **settings)[1:]
  files = [a.split('=', 1)[1] for a in arguments if a.startswith('--gin_file')]
  bindings = [
    a.removeprefix('--gin.') for a in arguments if a.startswith('--gin.')
  ]
  ginfiles.parse(files, bindings)
  return gin.get_configurable(train.Run)()


@functools.cache
def _folder() -> pathlib.Path:
  """A folder for what all tests of a session share; gone at its end."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='tiny'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


@functools.cache
def base() -> str:
  """A base of random weights on disk, in our own layout."""
  plain = model(None)
  flat = states.initial(plain, jax.random.key(3), states.abstract(plain)[0])
  config = {'t5': pretrained.shapes_of(plain.config)}
  pretrained.save(str(_folder() / 'base'), jax.device_get(flat), config)
  return str(_folder() / 'base')


@functools.cache
def trained(method='prompt'):
  """A finished run: its files, flags, MODEL_DIR and what `train` returned."""
  from prompt_jax import train

  files, model_dir = _folder() / f'{method}_files', _folder() / method
  write_files(files, name=f'tiny_{method}')
  settings = {'method': method, 'INITIAL_CHECKPOINT_PATH': base()}
  # set, so that the run does not change where JAX keeps compiled programs
  with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR='unused'):
    summary = train.train(configured(files, model_dir, **settings))
  return types.SimpleNamespace(
    files=files,
    flags=functools.partial(flags, files, model_dir, **settings),
    configured=functools.partial(configured, files, model_dir, **settings),
    model_dir=model_dir,
    summary=summary,
    prompt=model_dir / 'prompts' / '4' / f'tiny_{method}.npy',
  )
