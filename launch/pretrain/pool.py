"""The sentences, sentence pairs and glosses that self-supervision draws on."""

import dataclasses
import itertools

import numpy as np

from launch.pretrain.corpora import GLOSSES, Corpora, Gloss, for_validation

# corpus -> its name in the task "which corpus"; the others are only text
GENRES = {
  GLOSSES: 'definition',
  'sotu': 'speech',
  'austen': 'novel',
  'moby_dick': 'whale',
  'bible_kjv': 'religion',
  'poetry': 'poetry',
  'docs_postgresql': 'database',
  'docs_sqlite': 'database',
  'docs_python': 'code',
  'docs_rust_books': 'code',
}
_FEWEST_WORDS = 6
_MOST_WORDS = 34  # about 44 pieces at 1.3 pieces a word
# Manuals are half of the text and a third of this: prose is nearer to what
# prompts will be tuned on.
_MOST = 15000
_MOST_MANUAL = 3000


@dataclasses.dataclass(frozen=True)
class Pool:
  """Raw material of one split.

  Attributes:
    sentences: corpus -> sentences.
    pairs: corpus -> (sentence, the next one).
    glosses: synsets.
  """

  sentences: dict[str, list[str]]
  pairs: dict[str, list[tuple[str, str]]]
  glosses: list[Gloss]

  def all_sentences(self, rng: np.random.Generator) -> list[str]:
    """Sentences of all corpora in a shuffled order."""
    flat = [s for name in sorted(self.sentences) for s in self.sentences[name]]
    return [flat[i] for i in rng.permutation(len(flat))]


def pools(corpora: Corpora, seed: int) -> dict[str, Pool]:
  """Reads all corpora once: split -> Pool.

  A sentence is in one split in all tasks. Of a pair the first sentence
  decides; no train pair has a second sentence for validation.
  """
  rng = np.random.default_rng([seed, 101])
  out = {split: Pool({}, {}, []) for split in ('train', 'validation')}
  for gloss in corpora.glosses():
    out[_split(gloss.definition, seed)].glosses.append(gloss)
  for name in corpora.names():
    lines = (
      ([gloss.definition] for p in out.values() for gloss in p.glosses)
      if name == GLOSSES
      else corpora.lines(name)
    )
    sentences = {split: [] for split in out}
    pairs = {split: [] for split in out}
    for line in lines:
      kept = [(s, _split(s, seed)) for s in line if _fits(s, _MOST_WORDS)]
      for sentence, split in kept:
        sentences[split].append(sentence)
      for one, two in itertools.pairwise(line):
        both = _fits(one, _MOST_WORDS // 2) and _fits(two, _MOST_WORDS // 2)
        split = _split(one, seed)
        if both and split in ('validation', _split(two, seed)):
          pairs[split].append((one, two))
    most = _MOST_MANUAL if name.startswith('docs_') else _MOST
    for split, pool in out.items():
      pool.sentences[name] = _sample(sentences[split], most, rng)
      pool.pairs[name] = _sample(pairs[split], most, rng)
  return out


def _split(text: str, seed: int) -> str:
  return 'validation' if for_validation(text, seed) else 'train'


def _fits(sentence: str, most: int) -> bool:
  return _FEWEST_WORDS <= len(sentence.split()) <= most


def _sample(items: list, most: int, rng: np.random.Generator) -> list:
  return [items[i] for i in rng.permutation(len(items))[:most]]
