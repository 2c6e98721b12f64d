"""Packs everything that pretraining reads into one file.

    python -m launch.pretrain.mixture --source DATA --tasks TASKS \
      --teacher VECTORS --out FOLDER/mixture.npz

Two kinds of rows, both with an answer of one word:

- labelled: tables of `launch.pretrain.tasks`, a learned prompt each;
- prototype tasks: a text is to be answered with the word of the prototype that
  is nearest to it in the teacher's space (see `prototypes.py`);

and span corruption with its longer targets. FOLDER/mixture.json names the
labelled tasks and the parts in the order of their numbers.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib

import numpy as np
import sentencepiece

from launch.pretrain import archive, prototypes, supervised
from launch.pretrain.corpora import Corpora
from launch.pretrain.domains import BORROWED, DOMAINS, PAIRS, PARTS
from launch.pretrain.words import FUNCTION_WORDS, Words
from prompt_jax import files
from prompt_jax.batches import EOS
from prompt_jax.errors import UserError

# The labelled tasks, and the two self-supervised ones with labels that are
# most like a task; those with open answers took most of the loss of a small
# model and taught it little (README.md).
_LABELLED = (*supervised.TASKS, 'which_corpus', 'word_order')
_LABEL_WORDS = 600  # the most frequent content words
# Short words that may answer for the labels of the held-out tasks.
_PLAIN = ('same', 'opposite', 'kind', 'part', 'other')


def label_words(words: Words, corpora: Corpora, mixture: Mapping) -> list[str]:
  """Words a prototype may stand for: frequent ones and all label words.

  The label words of held-out tasks are among them, so that a prompt can make
  the model say them; what they mean there is in no row.

  Args:
    words: of the vocabulary.
    corpora: for the held-out tasks.
    mixture: of `launch.pretrain.tasks`, name -> {'labels': ...}.
  """
  named = {word for each in mixture.values() for word in each['labels'] or ()}
  named |= corpora.held_out_labels()
  frequent = words.ranked[FUNCTION_WORDS : FUNCTION_WORDS + _LABEL_WORDS]
  pool = dict.fromkeys([*frequent, *sorted(named), *_PLAIN])
  return [word for word in pool if words.is_single(word)]


class Tokens:
  """Rows of token ids with EOS, packed end to end.

  Args:
    processor: SentencePiece.
    most: pieces of a row, EOS among them; longer ones are cut.
  """

  def __init__(self, processor: sentencepiece.SentencePieceProcessor, most):
    self._processor, self._most = processor, most
    self._values: list[np.ndarray] = []
    self._lengths: list[int] = []

  def __len__(self) -> int:
    return len(self._lengths)

  def add(self, texts: Sequence[str]) -> np.ndarray:
    """Appends texts; returns their row numbers, int[n]."""
    first = len(self)
    for cut in self._processor.encode(list(texts)):
      ids = [*cut[: self._most - 1], EOS]
      self._values.append(np.array(ids, np.int16))
      self._lengths.append(len(ids))
    return np.arange(first, len(self))

  def arrays(self) -> dict[str, np.ndarray]:
    """'values' int16[sum], 'offsets' int64[n+1]."""
    return {
      'values': np.concatenate(self._values),
      'offsets': np.concatenate([[0], np.cumsum(self._lengths)]),
    }


def labelled(folder: pathlib.Path, mixture: Mapping, tokens: Tokens, processor):
  """The rows of the labelled tasks.

  Args:
    folder: what `launch.pretrain.tasks` wrote.
    mixture: its mixture.json.
    tokens: to which the texts are appended.
    processor: SentencePiece, for the answers.
  Returns: (names, {'labelled_row' int[n], 'labelled_task' int[n],
    'labelled_target' int[n] (token id), 'labelled_rate' float[tasks]}).
  """
  names = [name for name in mixture if name.startswith(_LABELLED)]
  rows, ids, targets = [], [], []
  for number, name in enumerate(names):
    table = (folder / name / 'train.tsv').read_text('utf-8').rstrip('\n')
    lines = [line.split('\t') for line in table.split('\n')[1:]]
    texts, words = zip(*lines, strict=True)
    answer = {w: processor.encode(w)[0] for w in set(words)}
    rows.append(tokens.add(texts))
    ids.append(np.full(len(texts), number))
    targets.append(np.array([answer[w] for w in words]))
  return names, {
    'labelled_row': np.concatenate(rows),
    'labelled_task': np.concatenate(ids).astype(np.int32),
    'labelled_target': np.concatenate(targets).astype(np.int32),
    'labelled_rate': np.array([mixture[name]['rate'] for name in names]),
  }


def parts(
  space: prototypes.Space, corpora: Corpora, tokens: Tokens, seed: int, rng
) -> list[prototypes.Part]:
  """The parts of the mixture, in the order of `domains.PARTS`."""
  weights = {
    domain: prototypes.directions(
      space,
      domain,
      {task: supervised.examples(corpora, task, seed)['train'] for task in own},
    )
    for domain, own in DOMAINS.items()
    if own
  }
  weights |= {domain: weights[other] for domain, other in BORROWED.items()}
  found = {}
  for domain in DOMAINS:
    texts, vectors = space.read(domain)
    found[domain] = prototypes.part(
      domain, tokens.add(texts), vectors, weights[domain], rng
    )
    if domain == 'words':
      texts, vectors = prototypes.pairs(
        texts, vectors, rng, corpora.held_out_pairs()
      )
      found[PAIRS] = prototypes.part(PAIRS, tokens.add(texts), vectors, [], rng)
  for name, each in found.items():
    print(f'{name}: {len(each.rows)} texts', flush=True)
  return [found[name] for name in PARTS]


def _table(folder: pathlib.Path) -> dict[str, dict]:
  """The mixture.json of `launch.pretrain.tasks`."""
  path = folder / 'mixture.json'
  if not path.is_file():
    raise UserError(
      f'{path} is not there; expected the folder that launch.pretrain.tasks '
      'wrote, given as --tasks. Run `python -m launch.pretrain.tasks`.'
    )
  return json.loads(path.read_text())


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  for name, about in {
    'source': 'the data folder',
    'tasks': 'folder of launch.pretrain.tasks, with spans/ in it',
    'teacher': 'folder of launch.pretrain.teacher',
    'out': 'the .npz file to write',
  }.items():
    parser.add_argument(
      f'--{name}', required=True, type=pathlib.Path, help=about
    )
  add = parser.add_argument
  add(
    '--vocabulary',
    default='vocab/en_unigram_8000.model',
    help='SentencePiece model, relative to --source',
  )
  add('--pieces', type=int, default=64, help='longest input, EOS included')
  add('--prototypes', type=int, default=20, help='of a task')
  add('--programs', type=int, default=50000, help='prototype tasks')
  add('--seed', type=int, default=0, help='of everything random')
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  args = _arguments(argv)
  corpora, mixture = Corpora(args.source), _table(args.tasks)
  spans = archive.load(args.tasks / 'spans/train.npz', 'spans')
  space = prototypes.Space.fit(args.teacher, DOMAINS)
  processor = sentencepiece.SentencePieceProcessor(
    str(args.source / args.vocabulary)
  )
  tokens = Tokens(processor, args.pieces)
  names, out = labelled(args.tasks, mixture, tokens, processor)
  answers = label_words(Words(processor), corpora, mixture)
  out['answers'] = np.array([processor.encode(w)[0] for w in answers])
  print(f'{len(names)} labelled tasks, {len(answers)} label words', flush=True)
  rng = np.random.default_rng([args.seed, 104])
  made = parts(space, corpora, tokens, args.seed, rng)
  out |= prototypes.pack(
    made, args.prototypes, args.programs, len(answers), rng
  )
  out |= tokens.arrays()
  for name, array in spans.items():
    out[f'span_{name}'] = array.astype(np.int16)
  described = {'labelled': names, 'parts': [each.name for each in made]}
  # first, so that whoever finds the arrays finds their names
  files.write_json(args.out.with_suffix('.json'), described)
  archive.save(args.out, out)
  print(f'{len(tokens)} texts in {args.out}')


if __name__ == '__main__':
  main()
