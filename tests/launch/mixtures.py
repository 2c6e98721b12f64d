"""A mixture of random texts, small enough for a test, with its embeddings."""

import json
import pathlib

import numpy as np

from launch.pretrain import archive, prototypes
from launch.pretrain.domains import PARTS

WIDTH, SPACE, PROTOTYPES, PROGRAMS, WORDS = 7, 5, 3, 53, 31  # H D P M W
ROWS = 8192  # of the embeddings, as the shipped vocabulary has
LABELLED = ('films_words', 'films_set1')
LEARNED = len(LABELLED) + 1  # S: one more for span corruption
CLASSES = 3
_TEXTS = 47  # of a task or a part
_LONGEST = 64
_SPANS = (17, 48, 16)  # examples, inputs, targets


def unit(rng, *shape) -> np.ndarray:
  """Random vectors of length one."""
  return prototypes.unit(rng.normal(size=shape)).astype(np.float32)


def _part(number: int, rng) -> prototypes.Part:
  """13 single texts, 11 centres and, in the first part, classes."""
  single, centres = unit(rng, 13, SPACE), unit(rng, 11, SPACE)
  rows = (len(LABELLED) + number) * _TEXTS + np.arange(_TEXTS)
  bank, kinds, classes = [single, centres], (0, 13, 24), []
  if number == 0:
    bank.append(unit(rng, CLASSES * 60, SPACE))
    classes = [24 + np.arange(CLASSES * 60).reshape(CLASSES, -1)]
  bank = np.concatenate(bank)
  return prototypes.Part(
    PARTS[number],
    rows,
    unit(rng, _TEXTS, SPACE),
    bank,
    (*kinds, len(bank)),
    classes,
  )


def arrays(programs: int = PROGRAMS, prototypes_each: int = PROTOTYPES) -> dict:
  """What `launch.pretrain.mixture` would write, of random tokens."""
  rng = np.random.default_rng(17)
  texts = (len(LABELLED) + len(PARTS)) * _TEXTS
  lengths = rng.integers(2, _LONGEST + 1, texts)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  values = rng.integers(2, 8000, offsets[-1]).astype(np.int16)
  values[offsets[1:] - 1] = 1
  count, inputs, targets = _SPANS
  parts = [_part(number, rng) for number in range(len(PARTS))]
  return {
    'labelled_row': np.arange(len(LABELLED) * _TEXTS),
    'labelled_task': np.repeat(np.arange(len(LABELLED)), _TEXTS).astype('i4'),
    'labelled_target': rng.integers(2, 8000, len(LABELLED) * _TEXTS, 'i4'),
    'labelled_rate': np.array([0.5, 2.0]),
    'answers': rng.choice(np.arange(100, 8000), WORDS, replace=False),
    'values': values,
    'offsets': offsets,
    'span_inputs': rng.integers(2, 8100, (count, inputs)).astype(np.int16),
    'span_targets': rng.integers(2, 8100, (count, targets)).astype(np.int16),
    **prototypes.pack(parts, prototypes_each, programs, WORDS, rng),
  }


def write(folder: pathlib.Path, **changes) -> str:
  """Writes mixture.npz, its names and embedding_<WIDTH>.npy; the first's path.

  Args:
    folder: where to.
    changes: arrays that are other than in `arrays`.
  """
  file = folder / 'mixture.npz'
  archive.save(file, arrays() | changes)
  described = {'labelled': LABELLED, 'parts': PARTS}
  file.with_suffix('.json').write_text(json.dumps(described))
  table = np.random.default_rng(19).normal(size=(ROWS, WIDTH))
  np.save(folder / f'embedding_{WIDTH}.npy', table.astype(np.float32))
  return str(file)
