"""Tasks whose answers are in the text itself: no one had to label them.

Each builder maps (pool, words, rng) to an endless-enough list of (text,
target); the caller cuts it. With labels, targets are the real label words.
"""

from collections.abc import Callable

import numpy as np

from launch.pretrain.pool import GENRES, Pool
from launch.pretrain.words import Words

Examples = list[tuple[str, str]]
Builder = Callable[[Pool, Words, np.random.Generator], Examples]
# One piece when a blank is before it, and hardly ever in the corpora.
GAP = '__'
OPTIONS = 4


def which_corpus(pool: Pool, words: Words, rng) -> Examples:
  """Sentence -> name of the kind of text it is from; classes of one size."""
  del words
  by_genre = {genre: [] for genre in GENRES.values()}
  for name, genre in GENRES.items():
    by_genre[genre] += [(s, genre) for s in pool.sentences[name]]
  least = min(map(len, by_genre.values()))
  rows = []
  for genre_rows in by_genre.values():
    rows += [genre_rows[i] for i in rng.permutation(len(genre_rows))[:least]]
  return [rows[i] for i in rng.permutation(len(rows))]


def word_order(pool: Pool, words: Words, rng) -> Examples:
  """Sentence, half of them with the inner words shuffled -> order, random.

  The first and the last word stay: a capital letter or a full stop in the
  middle would give the answer away.
  """
  del words
  rows = []
  for sentence in pool.all_sentences(rng):
    if rng.random() < 0.5:
      first, *inner, last = sentence.split()
      mixed = [inner[i] for i in rng.permutation(len(inner))]
      if mixed != inner:
        rows.append((' '.join([first, *mixed, last]), 'random'))
    else:
      rows.append((sentence, 'order'))
  return rows


def missing_word(pool: Pool, words: Words, rng) -> Examples:
  """Sentence with a gap -> the word that was there."""
  return [(text, word) for text, word in _gaps(pool, words, rng)]


def missing_option(pool: Pool, words: Words, rng) -> Examples:
  """Four words and a sentence with a gap -> the word that was there.

  The wrong words are answers of other sentences, so that the frequency of a
  word says nothing.
  """
  gaps = _gaps(pool, words, rng)
  answers = [word for _, word in gaps]
  rows = []
  for text, word in gaps:
    options = {word: None}
    while len(options) < OPTIONS:
      options[answers[rng.integers(len(answers))]] = None
    listed = list(options)
    listed = [listed[i] for i in rng.permutation(OPTIONS)]
    rows.append((f'{", ".join(listed)}: {text}', word))
  return rows


def defined_word(pool: Pool, words: Words, rng) -> Examples:
  """Definition with its part of speech -> the word defined."""
  rows = [
    (f'({gloss.part}) {gloss.definition}', gloss.words[0])
    for gloss in pool.glosses
    if words.is_single(gloss.words[0])
  ]
  return [rows[i] for i in rng.permutation(len(rows))]


def next_sentence(pool: Pool, words: Words, rng) -> Examples:
  """Two sentences -> next (the second follows), other (same corpus)."""
  del words
  rows = []
  for name in sorted(pool.pairs):
    pairs = pool.pairs[name]
    for one, two in pairs:
      if rng.random() < 0.5:
        rows.append((f'{one} - {two}', 'next'))
      else:
        wrong = pairs[rng.integers(len(pairs))][1]
        if wrong != two:
          rows.append((f'{one} - {wrong}', 'other'))
  return [rows[i] for i in rng.permutation(len(rows))]


def first_word(pool: Pool, words: Words, rng) -> Examples:
  """Sentence -> its first content word."""
  return _end_word(pool, words, rng, 0)


def last_word(pool: Pool, words: Words, rng) -> Examples:
  """Sentence -> its last content word."""
  return _end_word(pool, words, rng, -1)


def contains_word(pool: Pool, words: Words, rng) -> Examples:
  """A word and a sentence -> true (the word is in it), false.

  A wrong word is the right word of another sentence.
  """
  gaps = _gaps(pool, words, rng)
  rows = []
  for text, word in gaps:
    asked, label = word, 'true'
    if rng.random() < 0.5:
      asked, label = gaps[rng.integers(len(gaps))][1], 'false'
    sentence = text.replace(GAP, word)
    if label == 'true' or asked not in sentence.lower():
      rows.append((f'{asked}: {sentence}', label))
  return rows


# task -> (builder, its label words or None where any word may be the answer)
TASKS: dict[str, tuple[Builder, tuple[str, ...] | None]] = {
  'which_corpus': (which_corpus, tuple(dict.fromkeys(GENRES.values()))),
  'word_order': (word_order, ('order', 'random')),
  'missing_word': (missing_word, None),
  'missing_option': (missing_option, None),
  'defined_word': (defined_word, None),
  'next_sentence': (next_sentence, ('next', 'other')),
  'first_word': (first_word, None),
  'last_word': (last_word, None),
  'contains_word': (contains_word, ('true', 'false')),
}


def _gaps(pool: Pool, words: Words, rng) -> Examples:
  rows = []
  for sentence in pool.all_sentences(rng):
    found = [m for m in words.content(sentence) if words.is_single(m[0])]
    if not found or GAP in sentence:
      continue
    match = found[rng.integers(len(found))]
    text = sentence[: match.start()] + GAP + sentence[match.end() :]
    rows.append((text, match[0]))
  return rows


def _end_word(pool: Pool, words: Words, rng, end: int) -> Examples:
  rows = []
  for sentence in pool.all_sentences(rng):
    content = words.content(sentence)
    # of several pieces: left out, not skipped, or the rule would be untrue
    if len(content) > 1 and words.is_single(content[end][0]):
      rows.append((sentence, content[end][0]))
  return rows
