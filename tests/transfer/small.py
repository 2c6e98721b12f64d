"""A tiny base, two tasks of it and prompts, for tests of transfer."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import numpy as np

from prompt_jax.prompts import saved
from prompt_jax.tasks import local
from prompt_jax.transfer import base as bases
from prompt_jax.transfer import grid
from tests import tiny

LABELS = {'first': ['no', 'yes'], 'second': ['bad', 'good', 'odd']}
EXAMPLES, BATCH = 11, 8  # so that a batch holds rows of two prompts
P, H = 3, tiny.SIZES['d_model']
SOURCE_P, SOURCE_H = 5, 2  # prompts of another base


@functools.cache
def folder() -> pathlib.Path:
  """A folder of the session; gone at its end."""
  made = pathlib.Path(tempfile.mkdtemp(prefix='transfer'))
  atexit.register(shutil.rmtree, made, ignore_errors=True)
  return made


@functools.cache
def base() -> bases.Base:
  return bases.load(tiny.base(), 'bytes')


@functools.cache
def tasks() -> tuple[str, ...]:
  """Two registered tasks; their names."""
  for name, labels in LABELS.items():
    files = {}
    for split in ('train', 'validation'):
      files[split] = str(folder() / f'{name}_{split}.tsv')
      lines = [
        f'a {name} {i * i}\t{labels[i % len(labels)]}' for i in range(EXAMPLES)
      ]
      text = '\n'.join(['text\tlabel', *lines]) + '\n'
      pathlib.Path(files[split]).write_text(text)
    task = local.FileTask(f'transfer_{name}', files, labels=labels)
    local.register(task, vocabulary=_bytes())
  return tuple(f'transfer_{name}' for name in LABELS)


def _bytes():
  from prompt_jax.tasks import features

  return features.vocabulary('bytes')


def settings(**changes) -> grid.Settings:
  fields = {'lengths': {'inputs': 13, 'targets': 5}, 'batch_size': BATCH}
  return grid.Settings(**{**fields, **changes})


def arrays(number=2, shape=(P, H), seed=0):
  """Random prompts float32[number,P,H]."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(number, *shape)).astype(np.float32)


def write(where: pathlib.Path, names=None, seed=0, shape=(P, H), **about):
  """Saves a prompt a task, with sidecars; the folder."""
  names = tasks() if names is None else names
  sidecar = {**(base().sidecar() if shape[1] == H else {}), **about}
  prompts = arrays(len(names), shape, seed)
  for name, prompt in zip(names, prompts, strict=True):
    saved.save(where / f'{name}.npy', prompt, {**sidecar, 'task': name})
  return where
