"""Writes the pretraining tasks as tables of text and target.

    python -m launch.pretrain.tasks --source DATA --out FOLDER

writes FOLDER/<name>/{train,validation}.tsv, one folder for each task and
verbalizer, and FOLDER/mixture.json.
"""

import argparse
from collections.abc import Iterator
import json
import pathlib

import numpy as np
import sentencepiece

from launch.pretrain import selfsupervised, supervised
from launch.pretrain.corpora import Corpora
from launch.pretrain.pool import pools
from launch.pretrain.words import Words
from prompt_jax.errors import UserError

# Verbalizers: the real label words, and sets of words that mean nothing here.
# With them a prompt must carry the labels, not only the task.
REAL = 'words'
RANDOM_SETS = ('set1', 'set2', 'set3')
_SELF_SUPERVISED_SETS = RANDOM_SETS[:1]
_MOST_VALIDATION = 500
# Open answers are how the decoder learns to emit any word, which a prompt on
# a new task needs and cannot teach: they get twice the rate.
_OPEN_RATE = 2.0
# Sampling temperature T=2 over sizes: Raffel et al. 2020, section 3.5.2.
_TEMPERATURE = 2.0


def rate(size: int, open_answer: bool) -> float:
  """Mixing rate: (size / 10,000)^(1/T), doubled for open answers."""
  scale = _OPEN_RATE if open_answer else 1.0
  return round(scale * (size / 10000) ** (1 / _TEMPERATURE), 3)


def short(
  rows: list[tuple[str, str]], words: Words, most: int
) -> list[tuple[str, str]]:
  """Rows whose text has at most `most` pieces."""
  lengths = words.lengths([text for text, _ in rows])
  return [row for row, n in zip(rows, lengths, strict=True) if n <= most]


def verbalizers(
  task: str,
  labels: list[str],
  sets: tuple[str, ...],
  words: Words,
  avoid: set[str],
  seed: int,
) -> dict[str, dict[str, str]]:
  """Set name -> {real label word: word to answer}.

  Args:
    task: name, which seeds the draw.
    labels: real label words.
    sets: names of the random sets.
    words: to draw from.
    avoid: words that mean something as a label, never drawn.
    seed: of the draw.
  Returns: the real set and the random ones; no random word twice.
  Raises: UserError if a label is not one piece.
  """
  multi = [w for w in labels if not words.is_single(w)]
  if multi:
    raise UserError(
      f'labels {multi} of {task} are not one piece of the vocabulary; expected '
      'one-piece words, in launch/pretrain. Rename them in supervised.RENAMED '
      'or selfsupervised.TASKS.'
    )
  rng = np.random.default_rng([seed, *task.encode()])
  drawn = words.labels(len(labels) * len(sets), avoid, rng)
  out = {REAL: {label: label for label in labels}}
  for i, name in enumerate(sets):
    chosen = drawn[i * len(labels) : (i + 1) * len(labels)]
    out[name] = dict(zip(labels, chosen, strict=True))
  return out


def self_supervised(
  corpora: Corpora, words: Words, pieces: int, examples: int, seed: int
) -> Iterator[tuple[str, dict[str, list[tuple[str, str]]]]]:
  """Yields (task, split -> rows) of the tasks without labellers."""
  most = {'train': examples, 'validation': _MOST_VALIDATION}
  found = pools(corpora, seed)
  for number, (task, (build, _)) in enumerate(selfsupervised.TASKS.items()):
    parts = {}
    for split, pool in found.items():
      rng = np.random.default_rng([seed, number, len(split)])
      # more than needed: the long ones go
      rows = build(pool, words, rng)[: 2 * most[split]]
      parts[split] = short(rows, words, pieces)[: most[split]]
    yield task, parts


class Writer:
  """Writes tables and remembers what the mixture must know of them."""

  def __init__(self, folder: pathlib.Path, words: Words, most: int):
    self._folder, self._words, self._most = folder, words, most
    self.mixture: dict[str, dict] = {}

  def write(
    self,
    name: str,
    parts: dict[str, list[tuple[str, str]]],
    answers: dict[str, str] | None,
  ) -> None:
    """Writes one task with one verbalizer.

    Args:
      name: of the folder.
      parts: split -> rows, at most `most` pieces each.
      answers: real label word -> word to write; None for open answers.
    """
    folder = self._folder / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in parts.items():
      lines = [
        f'{text}\t{answers[target] if answers else target}'
        for text, target in rows
      ]
      table = '\n'.join(['text\ttarget', *lines]) + '\n'
      (folder / f'{split}.tsv').write_text(table, encoding='utf-8')
    size = len(parts['train'])
    targets = sorted({t for rows in parts.values() for _, t in rows})
    written = [answers[t] if answers else t for t in targets]
    self.mixture[name] = {
      'rate': rate(size, answers is None),
      'input_length': self._most + 1,  # EOS
      'target_length': int(self._words.lengths(written).max()) + 1,
      'labels': list(answers.values()) if answers else None,
      'train': size,
      'validation': len(parts['validation']),
    }

  def close(self) -> None:
    """Writes mixture.json."""
    text = json.dumps(self.mixture, indent=2) + '\n'
    (self._folder / 'mixture.json').write_text(text)


def main(argv: list[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--source', required=True, type=pathlib.Path)
  parser.add_argument('--out', required=True, type=pathlib.Path)
  parser.add_argument('--vocabulary', default='vocab/en_unigram_8000.model')
  parser.add_argument('--pieces', type=int, default=44, help='longest input')
  parser.add_argument('--examples', type=int, default=20000)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)

  corpora = Corpora(args.source)
  words = Words(
    sentencepiece.SentencePieceProcessor(str(args.source / args.vocabulary))
  )
  writer = Writer(args.out, words, args.pieces)
  labelled = {
    task: supervised.examples(corpora, task, args.seed)
    for task in supervised.TASKS
  }
  labels = {
    task: sorted({label for _, label in parts['train']})
    for task, parts in labelled.items()
  }
  labels |= {task: real for task, (_, real) in selfsupervised.TASKS.items()}
  # a label of a held-out task must stay free of another meaning
  avoid = corpora.held_out_labels().union(
    *(real or () for real in labels.values())
  )

  def write(task, parts, random_sets):
    if labels[task] is None:
      writer.write(task, parts, None)
      return
    sets = verbalizers(
      task, list(labels[task]), random_sets, words, avoid, args.seed
    )
    for name, answers in sets.items():
      writer.write(f'{task}_{name}', parts, answers)

  for task, parts in labelled.items():
    kept = {s: short(rows, words, args.pieces) for s, rows in parts.items()}
    write(task, kept, RANDOM_SETS)
  made = self_supervised(corpora, words, args.pieces, args.examples, args.seed)
  for task, parts in made:
    write(task, parts, _SELF_SUPERVISED_SETS)
  writer.close()
  for where, count in corpora.dropped.items():
    if count:
      print(f'left out {count} texts of {where}')
  total = sum(entry['train'] for entry in writer.mixture.values())
  print(f'{len(writer.mixture)} tasks, {total} train rows in {args.out}')


if __name__ == '__main__':
  main()
