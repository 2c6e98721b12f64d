"""The demo over several seeds: the two tables."""

from launch import seeds

ROWS = [
  {
    'task': 'films',
    'metric': 'accuracy',
    'test': test,
    'untuned': 59.3,
    'majority': 51.1,
    'tfidf': 80.8,
    'full': {
      'mean': 78.0,
      'spread': 0.5,
      'seeds': [0, 1],
      'date': '2026-11-23',
    },
    'steps': 600,
    'train_seconds': 84.0,
    'trainable': 2048,
    'total_params': 2731392,
    'prompt_bytes': 8320,
    'curve': {
      '7144': {'prompt': test, 'tfidf': 80.8},
      '16': {'prompt': 50.0, 'tfidf': 53.7},
    },
  }
  for test in (63.0, 65.0)
]


def test_table():
  lines = seeds.table(ROWS, 1043).splitlines()
  assert lines[0] == '| `films`, test accuracy in percent |  |'
  assert '| tuned prompt, 2 seeds | 64.0 ± 1.4 (63.0, 65.0) |' in lines
  assert '| full fine-tuning, 2 seeds (2026-11-23) | 78.0 ± 0.5 |' in lines
  # sqrt(0.64 * 0.36 / 1043) = 1.49 %
  assert '| standard error of one accuracy (1043 examples) | 1.5 |' in lines
  without = seeds.table([{**row, 'full': None} for row in ROWS], 1043)
  assert 'full fine-tuning' not in without


def test_curve_table_is_in_the_order_of_size():
  assert seeds.curve_table(ROWS).splitlines() == [
    '| examples | 16 | 7,144 |',
    '| --- | --: | --: |',
    '| prompt | 50.0 ± 0.0 | 64.0 ± 1.4 |',
    '| TF-IDF | 53.7 ± 0.0 | 80.8 ± 0.0 |',
  ]
