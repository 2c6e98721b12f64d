"""Span corruption: text with gaps -> what was in the gaps, as token ids.

    python -m launch.pretrain.spans --source DATA --out FOLDER/spans

writes FOLDER/spans/train.npz: inputs int32[n,48], targets int32[n,16], zero
padded, EOS at the end of each.
"""

import argparse
from collections.abc import Iterator
import pathlib

import numpy as np
import sentencepiece

from launch.pretrain.corpora import GLOSSES, Corpora, for_validation
from prompt_jax.batches import EOS

# Raffel et al. 2020, section 3.1.4 and table 7.
DENSITY = 0.15
MEAN_SPAN = 3
SENTINELS = 100  # SeqIO's extra_ids: the last ids of the vocabulary
# Pieces of the shortest window: one span and a context.
_SHORTEST = 8
# Windows of a corpus. Manuals are half of the text, poetry a quarter.
_MOST = {GLOSSES: 60000, 'poetry': 50000, 'sotu': 40000}
_MOST_MANUAL = 8000
_MOST_OTHER = 40000
_BATCH_LINES = 4096


def sizes(length: int) -> tuple[int, int]:
  """(masked pieces, spans) of a window of `length` pieces."""
  masked = min(max(round(length * DENSITY), 1), length - 1)
  return masked, max(round(masked / MEAN_SPAN), 1)


def window(inputs: int, targets: int) -> int:
  """The longest window whose input and target fit, EOS included."""
  length = inputs
  while True:
    masked, spans = sizes(length + 1)
    if length + 1 - masked + spans + 1 > inputs or masked + spans + 1 > targets:
      return length
    length += 1


def compose(total: int, parts: int, rows: int, rng) -> np.ndarray:
  """Random compositions of `total` into positive parts: int64[rows,parts].

  Each composition is equally likely: parts - 1 different cuts are drawn among
  total - 1 places.
  """
  order = np.argsort(rng.random((rows, total - 1)), axis=1)
  cuts = np.sort(order[:, : parts - 1] + 1, axis=1)
  ends = np.concatenate([cuts, np.full((rows, 1), total)], axis=1)
  return np.diff(ends, axis=1, prepend=0)


def mask(length: int, rows: int, rng) -> np.ndarray:
  """Which pieces are masked: bool[rows,length].

  Departures: T5's code always ends a window with a masked span and never
  starts with one; here text before the first and after the last span may be
  empty or not, so that the ends of a line are not always masked.
  """
  masked, spans = sizes(length)
  inside = compose(masked, spans, rows, rng)
  outside = compose(length - masked + 2, spans + 1, rows, rng)
  outside[:, [0, -1]] -= 1
  lengths = np.empty((rows, 2 * spans + 1), np.int64)
  lengths[:, 0::2], lengths[:, 1::2] = outside, inside
  ends = np.cumsum(lengths, axis=1)
  place = np.arange(length)[None, :, None]
  # the number of runs that ended before a place is odd within a span
  return (place >= ends[:, None, :]).sum(axis=2) % 2 == 1


def corrupt(tokens: np.ndarray, masked: np.ndarray, first_sentinel: int):
  """Replaces each span by a sentinel, and lists the spans after sentinels.

  Args:
    tokens: int32[n,L].
    masked: bool[n,L] with equally many pieces and spans in each row.
    first_sentinel: id of <extra_id_0>; the next sentinels count down.
  Returns: (int32[n, L - masked + spans], int32[n, masked + spans]).
  Source: Raffel et al. 2020, section 3.1.4. Departures: as T5's code, no
    sentinel after the last span.
  """
  before = np.pad(masked, ((0, 0), (1, 0)))[:, :-1]
  start = masked & ~before
  sentinel = first_sentinel - (np.cumsum(start, axis=1) - 1)
  mixed = np.where(start, sentinel, tokens)
  inputs = mixed[~masked | start].reshape(len(tokens), -1)
  both = np.stack([sentinel, tokens], axis=2)
  targets = both[np.stack([start, masked], axis=2)].reshape(len(tokens), -1)
  return inputs.astype(np.int32), targets.astype(np.int32)


def windows(
  corpora: Corpora, name: str, processor, length: int, seed: int
) -> Iterator[list[int]]:
  """Token windows of a corpus, lines in a shuffled order, none for validation.

  A line is cut into windows; the sentences for validation are taken out.
  """
  lines = []
  for line in corpora.lines(name):
    kept = [s for s in line if not for_validation(_hashed(name, s), seed)]
    if kept:
      lines.append(' '.join(kept))
  rng = np.random.default_rng([seed, *name.encode()])
  order = rng.permutation(len(lines))
  for at in range(0, len(order), _BATCH_LINES):
    batch = [lines[i] for i in order[at : at + _BATCH_LINES]]
    for ids in processor.encode(batch):
      for start in range(0, len(ids), length):
        if len(ids) - start >= _SHORTEST:
          yield ids[start : start + length]


def _hashed(name: str, sentence: str) -> str:
  """What decides on which side a sentence is: of a gloss, its definition."""
  return sentence.split('): ', 1)[-1] if name == GLOSSES else sentence


def arrays(
  found: list[list[int]], inputs: int, targets: int, first_sentinel: int, rng
) -> dict[str, np.ndarray]:
  """Corrupts windows, all of one length at a time: {inputs, targets}."""
  lengths = np.array([len(ids) for ids in found])
  out = {
    'inputs': np.zeros((len(found), inputs), np.int32),
    'targets': np.zeros((len(found), targets), np.int32),
  }
  for length in np.unique(lengths):
    rows = np.flatnonzero(lengths == length)
    tokens = np.array([found[i] for i in rows], np.int32)
    pair = corrupt(tokens, mask(length, len(rows), rng), first_sentinel)
    for name, made in zip(('inputs', 'targets'), pair, strict=True):
      width = made.shape[1]
      out[name][rows, :width] = made
      out[name][rows, width] = EOS
  return out


def main(argv: list[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--source', required=True, type=pathlib.Path)
  parser.add_argument('--out', required=True, type=pathlib.Path)
  parser.add_argument('--vocabulary', default='vocab/en_unigram_8000.model')
  parser.add_argument('--inputs', type=int, default=48, help='pieces')
  parser.add_argument('--targets', type=int, default=16, help='pieces')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)

  corpora = Corpora(args.source)
  processor = sentencepiece.SentencePieceProcessor(
    str(args.source / args.vocabulary)
  )
  length = window(args.inputs, args.targets)
  found = []
  for name in corpora.names():
    manual = name.startswith('docs_')
    most = _MOST_MANUAL if manual else _MOST.get(name, _MOST_OTHER)
    here = windows(corpora, name, processor, length, args.seed)
    taken = [ids for ids, _ in zip(here, range(most), strict=False)]
    found += taken
    print(f'{name}: {len(taken)} windows, {sum(map(len, taken))} pieces')
  rng = np.random.default_rng([args.seed, 102])
  found = [found[i] for i in rng.permutation(len(found))]
  first_sentinel = processor.get_piece_size() + SENTINELS - 1
  out = arrays(found, args.inputs, args.targets, first_sentinel, rng)
  args.out.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(args.out / 'train.npz', **out)
  print(f'{len(found)} examples, windows of {length}, in {args.out}')


if __name__ == '__main__':
  main()
