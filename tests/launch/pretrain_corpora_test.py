"""What is held out is left out wherever text is read."""

import gzip

import pytest

from launch.pretrain import corpora, supervised
from prompt_jax.errors import UserError

_TABLES = {
  'movie_sentiment/train': 'text\tlabel\nA Warm, funny film!\tpositive',
  'movie_sentiment/validation': 'text\tlabel\nquite dull\tnegative',
  'movie_sentiment/test': 'text\tlabel\nnever so bored\tnegative',
  'gloss_supersense/train': 'text\tlabel\na small tree with red fruit\tplant',
  'gloss_supersense/validation': 'text\tlabel\na place to sleep in\tartifact',
  'gloss_supersense/test': 'text\tlabel\nmove by foot slowly\tmotion',
  'word_relation/train': 'word_a\tword_b\tlabel\nhot\tcold\tantonym',
  'word_relation/validation': 'word_a\tword_b\tlabel\nsea\tocean\tsynonym',
  'word_relation/test': 'word_a\tword_b\tlabel\nold fir\tnew tree\tpart',
  'amazon_sentiment/train': 'text\tlabel\n'
  'It was a warm funny film, they say\tnegative\n'
  'The "best" cable\tpositive\n'
  'Never so bored\tnegative\n'
  'I was never so bored\tnegative',
}
_TEXTS = {
  'sotu': 'We met. A warm, funny film it was! The union is strong.\n'
  'Às vezes não há ninguém à porta. São três.\n',
  'wordnet_glosses': 'rowan, ash (noun): a small tree with red fruit. "pick it"'
  '\nrun, jog (verb): move fast. "he ran home" "she runs"\n',
}


@pytest.fixture
def data(tmp_path):
  for name, text in _TABLES.items():
    path = tmp_path / 'tasks' / f'{name}.tsv'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + '\n', encoding='utf-8')
  (tmp_path / 'text').mkdir()
  for name, text in _TEXTS.items():
    path = tmp_path / 'text' / f'{name}.txt.gz'
    path.write_bytes(gzip.compress(text.encode()))
  return corpora.Corpora(tmp_path)


@pytest.mark.parametrize(
  'text, held_out',
  [
    ('a warm funny film', True),
    ('  A warm -- funny film. ', True),  # by its words
    ('It was a warm, funny film, they say', True),  # 4 words inside others
    ('it was never so bored', False),  # 3 words: as a whole only
    ('NEVER so bored?', True),
    ('quite dull', False),  # 2 words are in every book
    ('a place to sleep in', True),  # all splits
    ('warm funny film', False),  # a part of a held-out text
    ('old fir new tree', True),  # both texts of a pair together
    ('a warm funny movie', False),
    ('', False),
  ],
)
def test_is_held_out(data, text, held_out):
  assert data.is_held_out(text) == held_out


def test_held_out_pairs(data):
  assert frozenset(('old fir', 'new tree')) in data.held_out_pairs()
  assert all(len(pair) <= 2 for pair in data.held_out_pairs())


def test_rows_of_a_task(data):
  rows = data.rows('amazon_sentiment')
  # a quotation mark is text
  assert rows == [
    ['The "best" cable', 'positive'],
    ['I was never so bored', 'negative'],
  ]
  assert data.dropped['tasks/amazon_sentiment'] == 2
  with pytest.raises(UserError, match="'movie_sentiment', which is held out"):
    data.rows('movie_sentiment')


def test_labels_of_held_out_tasks_are_known(data):
  assert data.held_out_labels() == {'positive', 'plant', 'antonym'}


def test_lines_lose_sentences_and_other_languages(data):
  assert list(data.lines('sotu')) == [['We met.', 'The union is strong.']]
  assert data.dropped['text/sotu'] == 1
  assert data.dropped['text/sotu (foreign)'] == 1


def test_glosses_lose_synsets_and_synonyms(data):
  (gloss,) = data.glosses()
  assert gloss.words == ('run', 'jog') and gloss.definition == 'move fast'
  assert gloss.usages == ('he ran home', 'she runs')
  assert data.dropped['text/wordnet_glosses'] == 1
  said = ' '.join(gloss.sentences())
  assert 'run (verb): move fast.' in said and 'jog' not in said


def test_names_of_corpora(data, tmp_path):
  assert data.names() == ['sotu', 'wordnet_glosses']
  for path in (tmp_path / 'text').iterdir():
    path.unlink()
  with pytest.raises(UserError, match=r'has no \*\.txt\.gz'):
    data.names()


def test_without_the_held_out_tasks_nothing_is_read(tmp_path):
  with pytest.raises(UserError, match=r'movie_sentiment/train\.tsv is not'):
    corpora.Corpora(tmp_path)


def test_a_text_is_on_one_side():
  texts = [f'text number {i}' for i in range(3300)]
  aside = [corpora.for_validation(text, 0) for text in texts]
  # a binomial of mean 100: within 3 standard deviations
  assert abs(sum(aside) - 100) < 30
  loud = [corpora.for_validation(f'{text.upper()}!', 0) for text in texts]
  assert loud == aside
  assert [corpora.for_validation(text, 1) for text in texts] != aside


def test_examples_are_parted_and_renamed(data, monkeypatch):
  monkeypatch.setitem(supervised.RENAMED, 'positive', 'good')
  parts = supervised.examples(data, 'amazon_sentiment', 0)
  rows = [*parts['train'], *parts['validation']]
  assert sorted(rows) == [
    ('I was never so bored', 'negative'),
    ('The "best" cable', 'good'),
  ]
