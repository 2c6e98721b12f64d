"""Words that are one piece of the vocabulary, frequent ones first.

A small decoder learns to emit a word in a few hundred steps if it is one
piece, and hardly at all if it is several: every target is one such word.
"""

import re

import numpy as np
import sentencepiece

_WORD_MARK = '▁'
# Unigram pieces are stored by falling probability, so a rank is a frequency.
# The first 150 are the function words (and some label words of the tasks).
FUNCTION_WORDS = 150
_LABEL_WORDS = 1000
_CONTENT_LETTERS = 4
# A word that stands between blanks but for a mark after it: only there can it
# be cut out and leave a blank with one piece for its marker.
_STANDING = re.compile(r'(?<!\S)[A-Za-z]+(?=[,.;:!?]?(?:\s|$))')
_SHORTEST = 3


class Words:
  """The one-piece words of a SentencePiece vocabulary."""

  def __init__(self, processor: sentencepiece.SentencePieceProcessor):
    self._processor = processor
    pieces = map(processor.id_to_piece, range(processor.get_piece_size()))
    words = [
      p[1:] for p in pieces if re.fullmatch(f'{_WORD_MARK}[a-z]{{3,}}', p)
    ]
    # a piece may lose to a cheaper cut of the same word
    cuts = processor.encode(words)
    self.ranked = [w for w, cut in zip(words, cuts, strict=True) if one(cut)]
    self._single = frozenset(self.ranked)
    self._function = frozenset(self.ranked[:FUNCTION_WORDS])

  def is_single(self, word: str) -> bool:
    """Whether a lower-case word of three letters or more is one piece."""
    return word in self._single

  def content(self, text: str) -> list[re.Match]:
    """Lower-case content words of a text, of one piece or of several."""
    return [
      match
      for match in _STANDING.finditer(text)
      if len(match[0]) >= _CONTENT_LETTERS
      and match[0].islower()
      and match[0] not in self._function
    ]

  def labels(
    self, count: int, avoid: set[str], rng: np.random.Generator
  ) -> list[str]:
    """Draws different frequent words, none of `avoid`."""
    pool = [word for word in self.ranked[:_LABEL_WORDS] if word not in avoid]
    return [str(word) for word in rng.choice(pool, count, replace=False)]

  def lengths(self, texts: list[str]) -> np.ndarray:
    """Pieces of each text, without EOS: int64[n]."""
    cuts = self._processor.encode(texts)
    return np.array([len(cut) for cut in cuts], np.int64)


def one(cut: list[int]) -> bool:
  """Whether a text was cut into one piece."""
  return len(cut) == 1
