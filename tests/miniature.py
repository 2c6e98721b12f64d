"""The model and data of the contract: every dimension its own prime.

Float32, one device. The base lies on disk and is loaded as any base is; the
run is runs/train.gin with the data below in place of tasks. The vocabulary
is that of the shipped pieces, so that the frozen part weighs far more than
what a checkpoint may.
"""

from collections.abc import Sequence
import functools
import hashlib
import pathlib

import gin
import jax
import numpy as np

from prompt_jax import batches, bindings, data, ginfiles, train
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.t5 import T5
from prompt_jax.training import sharding
from prompt_jax.training import state as states

TASKS = ('first', 'second')  # M = 2
HEADS, KEYS, BATCH, INPUTS, WIDTH = 3, 5, 7, 11, 13  # N K B T H
TARGETS, MLP, PROMPT, EXAMPLES, VOCABULARY = 17, 19, 23, 29, 8111  # U F P - V
_TOKENS = 83  # the examples use ids 2 .. 84

_MODEL = f"""from __gin__ import dynamic_registration
include 'models/architectures/t5_1_1.gin'
NUM_EMBEDDINGS = {VOCABULARY}
EMBED_DIM = {{width}}
MLP_DIM = {MLP}
NUM_HEADS = {HEADS}
HEAD_DIM = {KEYS}
NUM_ENCODER_LAYERS = {{encoder_layers}}
NUM_DECODER_LAYERS = 1
ACTIVATION_DTYPE = 'float32'
VOCABULARY = 'shipped'
INITIAL_CHECKPOINT_PATH = '{{base}}'
"""
_RUN = f"""from __gin__ import dynamic_registration
from prompt_jax import train
from tests import miniature
include 'runs/train.gin'
MIXTURE_OR_TASK_NAME = None
BATCH_SIZE = {BATCH}
TRAIN_STEPS = 5
KEEP = 2
miniature.Data:
  mixture_or_task_name = None
  task_feature_lengths = {{'inputs': {INPUTS}, 'targets': {TARGETS}}}
  batch_size = %BATCH_SIZE
  seed = %RANDOM_SEED
train.Run.dataset = @miniature.Data()
train.Run.evaluations = ()
"""


class Data(data.Dataset):
  """Batches of random examples of two tasks, in the order of a seed."""

  tasks = TASKS
  num_examples = EXAMPLES * len(TASKS)
  vocab_size = 2 + _TOKENS

  @functools.cached_property
  def _tokens(self):
    """[(inputs, targets) of each task] as `batches.Ragged`."""
    rng = np.random.default_rng(31)

    def texts(longest):
      sizes = rng.integers(1, longest, EXAMPLES)
      rows = [rng.integers(2, 2 + _TOKENS, size).tolist() for size in sizes]
      return batches.Ragged.of([*row, batches.EOS] for row in rows)

    return [(texts(INPUTS), texts(TARGETS)) for _ in TASKS]

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """The batch of a step, by the arithmetic that tasks are ordered by."""
    size = self.batch_size
    mixing = batches.Mixing(self.seed, [1.0] * len(TASKS))
    ids, places = mixing.locate(step * size, size)
    inputs = np.zeros((size, INPUTS), np.int32)
    targets = np.zeros((size, TARGETS), np.int32)
    for i, task in enumerate(TASKS):
      here = np.flatnonzero(ids == i)
      order = batches.Order(self.seed, task, EXAMPLES)
      rows = order.examples(places[here])
      inputs[here] = self._tokens[i][0].pad(rows, INPUTS)
      targets[here] = self._tokens[i][1].pad(rows, TARGETS)
    return batches.assemble(inputs, targets, ids)

  def batches(self, step: int = 0):
    """All batches from a step on, without end."""
    while True:
      yield self.batch(step)
      step += 1

  def fingerprint(self) -> str:
    """Hex digest of the first batch, which the seed decides."""
    parts = [array.tobytes() for array in self.batch(0).values()]
    return hashlib.sha256(b''.join(parts)).hexdigest()[:16]


def whole_batch() -> dict[str, np.ndarray]:
  """A batch without padding, of all tasks."""
  rng = np.random.default_rng(37)
  text = lambda length: rng.integers(2, VOCABULARY, (BATCH, length), np.int32)
  ids = np.arange(BATCH) % len(TASKS)
  return batches.assemble(text(INPUTS), text(TARGETS), ids)


def write(
  folder: pathlib.Path, encoder_layers: int = 2, width: int = WIDTH
) -> dict[str, str]:
  """Writes base, gin files and prompts into a folder.

  Args:
    folder: where to.
    encoder_layers: 0 makes the base decoder-only.
    width: H; a few networks want an even one.
  Returns: {macro: value}, gin text for every macro that a file of
    gin/methods or gin/prompts may leave open or that has to be small here.
  """
  config = T5Config(VOCABULARY, width, KEYS, MLP, HEADS, encoder_layers, 1)
  rng = np.random.default_rng(41)

  def leaf(path, shape):
    array = rng.normal(size=shape).astype(np.float32)
    if path.endswith('scale'):  # of a norm: near 1, and not 1
      return 1 + np.float32(0.1) * array
    return array if 'embed' in path else array / np.float32(shape[0] ** 0.5)

  shapes = states.base_shapes(T5(config))
  base = {path: leaf(path, x.shape) for path, x in shapes.items()}
  where = str(folder / 'base')
  pretrained.save(where, base, {'t5': pretrained.shapes_of(config)})
  shape = {'encoder_layers': encoder_layers, 'width': width}
  model = _MODEL.format(base=where, **shape)
  (folder / 'model.gin').write_text(model)
  (folder / 'run.gin').write_text(_RUN)
  prompts = [str(folder / f'{task}.npy') for task in TASKS]
  for path in prompts:
    np.save(path, rng.normal(size=(PROMPT, width)).astype(np.float32))
  table = str(folder / 'table.npy')
  rows = next(p for p in base if p.endswith('token_embedder/embedding'))
  np.save(table, base[rows])
  return {
    'PROMPT_LENGTH': str(PROMPT),
    'NUM_TASKS': str(len(TASKS)),
    'PROMPT_FILE': repr(prompts[0]),
    'PROMPT_FILES': repr(prompts),
    'SOURCE_PROMPTS': repr(prompts),
    'RANKED_LABELS': repr(['good', 'bad']),
    'EMBEDDING_FILE': repr(table),
    'CLASS_LABELS': repr(['good', 'bad']),
    'PROMPT_TEXT': repr('a good film'),
  }


def command(folder: pathlib.Path, files: Sequence, macros, run_folder):
  """The command line that runs gin files on this model and data.

  Args:
    folder: what `write` wrote to.
    files: the method and what goes with it.
    macros: what `write` returned; those that the files define are given.
    run_folder: MODEL_DIR.
  Returns: (gin files, bindings).
  """
  defined = set()
  for name in files:
    path = ginfiles.find(str(name))
    found, _ = bindings.read(path, bindings.Imports(), ginfiles.find)
    defined.update(each.name for each in found if each.is_macro)
  given = [f'{name}={macros[name]}' for name in sorted(defined & {*macros})]
  ends = [str(folder / 'model.gin'), str(folder / 'run.gin')]
  given.append(f'MODEL_DIR={str(run_folder)!r}')
  return [ends[0], *map(str, files), ends[1]], given


def configured(files, given) -> train.Run:
  """The run that a command line describes, on one device."""
  ginfiles.parse(files, given)
  run = gin.get_configurable(train.Run)()
  run.mesh = sharding.make_mesh(1, jax.devices()[:1])
  return run


def ordered(seed: int) -> Data:
  """The data in the order of a seed, without gin."""
  lengths = {'inputs': INPUTS, 'targets': TARGETS}
  return Data(None, lengths, batch_size=BATCH, seed=seed)
