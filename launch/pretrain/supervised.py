"""Labelled tasks of the mixture: train rows only, text and label."""

import numpy as np

from launch.pretrain.corpora import Corpora, for_validation

# task -> how its texts become one input. The other tasks have one text.
PAIRS = {'word_in_context': '{} - {}', 'definition_match': '{}: {}'}
TASKS = (
  'amazon_sentiment',
  'tweet_sentiment',
  'airline_sentiment',
  'lexicon_sentiment',
  'gloss_pos',
  'word_in_context',
  'definition_match',
  'bible_section',
  'sotu_era',
)
# Labels that are not one piece, and words that are.
RENAMED = {
  '1790-1849': 'early',
  '1850-1899': 'middle',
  '1900-1949': 'late',
  '1950-2019': 'modern',
}


def examples(
  corpora: Corpora, task: str, seed: int
) -> dict[str, list[tuple[str, str]]]:
  """Train and validation part of the *train* rows of a task.

  Args:
    corpora: the data folder.
    task: one of `TASKS`.
    seed: of the partition and the order.
  Returns: split -> (text, label) in a shuffled order.
  """
  parts = {'train': [], 'validation': []}
  for *texts, label in corpora.rows(task):
    # word_in_context: the word decides, so that no word is on both sides;
    # definition_match: the definition, as in gloss_pos and in the corpora
    by = texts[0].split(':')[0] if task == 'word_in_context' else texts[-1]
    split = 'validation' if for_validation(by, seed) else 'train'
    text = PAIRS.get(task, '{}').format(*texts)
    parts[split].append((text, RENAMED.get(label, label)))
  rng = np.random.default_rng([seed, TASKS.index(task)])
  return {
    split: [rows[i] for i in rng.permutation(len(rows))]
    for split, rows in parts.items()
  }
