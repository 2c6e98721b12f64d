"""A base and a task that a launcher can tune in seconds.

The vocabulary is the shipped one, because the launchers take theirs from the
shipped tasks.
"""

import atexit
import functools
import pathlib
import shutil
import tempfile

import jax
import numpy as np

from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import local
from prompt_jax.training import state as states
from tests import tiny

WIDTH = 7
TASK = 'launched_films'
_GOOD = ('warm', 'funny', 'moving', 'bright', 'lovely')
_BAD = ('dull', 'cold', 'tired', 'loud', 'empty')
_MODEL = """
from __gin__ import dynamic_registration
include 'models/architectures/t5_1_1.gin'
NUM_EMBEDDINGS = 8192
EMBED_DIM = 7
MLP_DIM = 11
NUM_HEADS = 5
HEAD_DIM = 3
NUM_ENCODER_LAYERS = 1
NUM_DECODER_LAYERS = 1
VOCABULARY = 'shipped'
INITIAL_CHECKPOINT_PATH = {base!r}
"""


@functools.cache
def folder() -> pathlib.Path:
  """A folder for what all tests of a session share; gone at its end."""
  made = pathlib.Path(tempfile.mkdtemp(prefix='launched'))
  atexit.register(shutil.rmtree, made, ignore_errors=True)
  return made


@functools.cache
def model() -> str:
  """The gin file of a base of random weights."""
  plain, base = tiny.model(None, vocab_size=8192), folder() / 'base'
  flat = states.initial(plain, jax.random.key(5), states.abstract(plain)[0])
  config = {'t5': pretrained.shapes_of(plain.config)}
  pretrained.save(str(base), jax.device_get(flat), config)
  file = folder() / 'small.gin'
  file.write_text(_MODEL.format(base=str(base)))
  return str(file)


@functools.cache
def task() -> local.FileTask:
  """Sentences that one word decides; 48 to train on, 17 and 19 others."""
  rng, files = np.random.default_rng(11), {}
  for split, count in {'train': 48, 'validation': 17, 'test': 19}.items():
    lines = ['text\tlabel']
    for i in range(count):
      words, label = (_GOOD, 'positive') if i % 3 else (_BAD, 'negative')
      lines.append(f'a {rng.choice(words)} film, take {i}\t{label}')
    file = folder() / f'{split}.tsv'
    file.write_text('\n'.join(lines) + '\n')
    files[split] = str(file)
  labels = ['negative', 'positive']
  return local.FileTask(TASK, files, labels=labels)


def prompts(where: pathlib.Path, count: int = 2, rows: int = 3) -> None:
  """Saved prompts that know no base, `prompt_<i>.npy`."""
  rng = np.random.default_rng(13)
  for i in range(count):
    array = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    saved.save(where / f'prompt_{i}.npy', array, {})
