"""Reads the corpora and the task files, and leaves out what is held out.

A held-out task is one that a backbone must never have met, in any split, so
that tuning a prompt on it measures transfer. Its texts are dropped here, where
text is read, so that no builder of examples can forget to.
"""

from collections.abc import Iterator
import dataclasses
import gzip
import hashlib
import pathlib
import re

from prompt_jax.errors import UserError

HELD_OUT = ('movie_sentiment', 'gloss_supersense', 'word_relation')
GLOSSES = 'wordnet_glosses'
_SPLITS = ('train', 'validation', 'test')
# One text in 33 is for validation: some 300 rows of a task of 10,000.
_VALIDATION_ONE_IN = 33
# Shorter texts ("a man") are in every book; the corpora were cleaned of the
# evaluation sentences with the same bound.
_HELD_OUT_WORDS = 3
# A held-out text of this many words may not be a part of another one either.
_HELD_OUT_RUN = 4
# Prose in Portuguese or Turkish has 3 to 6 % letters outside ASCII, English
# with curly quotes below 1 %.
_FOREIGN = 0.015

_SENTENCE_END = re.compile(
  r'(?:(?<=[.!?])|(?<=[.!?]["\'”)]))(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)'
  r'(?<!\bSt\.)(?<!\be\.g\.)(?<!\bi\.e\.)\s+(?=["\'“(]?[A-Z0-9])'
)
_GLOSS = re.compile(r'(.+?) \((noun|verb|adj|adv)\): (.+)')
_NOT_KEY = re.compile('[^a-z0-9]+')


@dataclasses.dataclass(frozen=True)
class Gloss:
  """One synset: its words, part of speech, definition and usages."""

  words: tuple[str, ...]
  part: str
  definition: str
  usages: tuple[str, ...]

  def sentences(self) -> list[str]:
    """Dictionary entry of the first word alone, then the usages.

    The other words are left out: two words of one synset are the synonym
    class of the held-out word_relation.
    """
    entry = f'{self.words[0]} ({self.part}): {self.definition}.'
    return [entry, *self.usages]


def key(text: str) -> str:
  """Lower-case words and numbers, by which texts are compared."""
  return _NOT_KEY.sub(' ', text.lower()).strip()


def for_validation(text: str, seed: int) -> bool:
  """Whether a text is for validation, wherever it occurs.

  A keyed hash of `key(text)`, so that a sentence that is in two tasks or in a
  task and a corpus is on the same side in both.
  """
  digest = hashlib.blake2b(f'{seed} {key(text)}'.encode(), digest_size=8)
  return int.from_bytes(digest.digest(), 'big') % _VALIDATION_ONE_IN == 0


class Corpora:
  """The data folder: `tasks/<name>/<split>.tsv` and `text/<name>.txt.gz`."""

  def __init__(self, folder: str | pathlib.Path):
    """Opens the folder and reads the texts that are held out.

    Args:
      folder: has `tasks` and `text`.
    Raises: UserError if a held-out task is not there: without its texts
      nothing could be held out.
    """
    self.folder = pathlib.Path(folder)
    self.dropped: dict[str, int] = {}  # texts left out, by where they were
    whole = {
      key(text)
      for task in HELD_OUT
      for split in _SPLITS
      for *texts, _ in self._table(task, split)
      for text in (*texts, ' '.join(texts))
      if len(key(text).split()) >= _HELD_OUT_WORDS
    }
    self._held_out = whole
    self._runs: dict[tuple[str, ...], list[list[str]]] = {}
    for run in map(str.split, sorted(whole)):
      if len(run) >= _HELD_OUT_RUN:
        self._runs.setdefault(tuple(run[:_HELD_OUT_RUN]), []).append(run)

  def is_held_out(self, text: str) -> bool:
    """Whether a text is held out, or has a held-out one of 4+ words in it."""
    found = key(text)
    if found in self._held_out:
      return True
    words = found.split()
    return any(
      words[at : at + len(run)] == run
      for at in range(len(words) - _HELD_OUT_RUN + 1)
      for run in self._runs.get(tuple(words[at : at + _HELD_OUT_RUN]), ())
    )

  def held_out_pairs(self) -> set[frozenset[str]]:
    """Keys of the two texts of every held-out pair, in no order."""
    return {
      frozenset(map(key, texts))
      for task in HELD_OUT
      for split in _SPLITS
      for *texts, _ in self._table(task, split)
      if len(texts) == 2
    }

  def held_out_labels(self) -> set[str]:
    """Label words of the held-out tasks."""
    return {row[-1] for task in HELD_OUT for row in self._table(task, 'train')}

  def names(self) -> list[str]:
    """Names of all corpora, sorted.

    Raises: UserError if there are none.
    """
    files = list((self.folder / 'text').glob('*.txt.gz'))
    if not files:
      raise UserError(
        f'{self.folder / "text"} has no *.txt.gz; expected the corpora of '
        'the data folder given as --source. Name the folder that has the '
        'folders tasks, text and vocab.'
      )
    return sorted(file.name.removesuffix('.txt.gz') for file in files)

  def rows(self, task: str) -> list[list[str]]:
    """Train rows of a task, `[text, (text,) label]`, none held out.

    Raises: UserError if the task is held out or has no file.
    """
    if task in HELD_OUT:
      raise UserError(
        f'asked for task {task!r}, which is held out; expected one outside '
        f'{", ".join(HELD_OUT)}, in launch/pretrain/supervised.py. Take it '
        'out of the list of tasks there.'
      )
    rows = self._table(task, 'train')
    kept = [row for row in rows if not any(map(self.is_held_out, row[:-1]))]
    self.dropped[f'tasks/{task}'] = len(rows) - len(kept)
    return kept

  def glosses(self) -> Iterator[Gloss]:
    """Synsets whose definition is not held out."""
    dropped = 0
    for line in self._lines(GLOSSES):
      words, part, rest = _GLOSS.fullmatch(line).groups()
      definition, _, usages = rest.partition('. "')
      if self.is_held_out(definition) or self.is_held_out(rest):
        dropped += 1
        continue
      yield Gloss(
        tuple(words.split(', ')),
        part,
        definition.removesuffix('.'),
        tuple(u for u in usages.strip('" ').split('" "') if u),
      )
    self.dropped[f'text/{GLOSSES}'] = dropped

  def lines(self, name: str) -> Iterator[list[str]]:
    """Lines of a corpus, each cut into its sentences; English, not held out."""
    if name == GLOSSES:
      yield from (gloss.sentences() for gloss in self.glosses())
      return
    dropped = foreign = 0
    for line in self._lines(name):
      if sum(c.isalpha() and not c.isascii() for c in line) > _FOREIGN * len(
        line
      ):
        foreign += 1
        continue
      sentences = _SENTENCE_END.split(line)
      kept = [s for s in sentences if not self.is_held_out(s)]
      dropped += len(sentences) - len(kept)
      if kept:
        yield kept
    self.dropped[f'text/{name}'] = dropped
    self.dropped[f'text/{name} (foreign)'] = foreign

  def _lines(self, name: str) -> Iterator[str]:
    path = self.folder / 'text' / f'{name}.txt.gz'
    with gzip.open(path, 'rt', encoding='utf-8', newline='\n') as file:
      for line in file:
        yield line.rstrip('\n')

  def _table(self, task: str, split: str) -> list[list[str]]:
    path = self.folder / 'tasks' / task / f'{split}.tsv'
    if not path.is_file():
      raise UserError(
        f'{path} is not there; expected a data folder with '
        'tasks/<name>/<split>.tsv, given as --source. Name the folder that '
        'has the folders tasks, text and vocab.'
      )
    # not a CSV reader: a quotation mark is text here
    lines = path.read_text(encoding='utf-8').rstrip('\n').split('\n')[1:]
    return [line.split('\t') for line in lines]
