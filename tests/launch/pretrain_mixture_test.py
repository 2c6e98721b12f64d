"""What is packed: tokens, label words, labelled tables; what is missing."""

import importlib.util
import json
import types

import numpy as np
import pytest
import sentencepiece

from launch.pretrain import archive, mixture, teacher
from launch.pretrain.domains import BORROWED, DOMAINS, PARTS
from launch.pretrain.supervised import TASKS
from launch.pretrain.words import FUNCTION_WORDS, Words
from prompt_jax.errors import UserError
from prompt_jax.tasks import features


@pytest.fixture(scope='module')
def processor():
  return sentencepiece.SentencePieceProcessor(str(features.vocabulary_file()))


def test_texts_are_cut_and_end(processor):
  tokens = mixture.Tokens(processor, 5)
  first = tokens.add(['a warm film', 'one of many words that are too many'])
  then = tokens.add(['warm'])
  assert first.tolist() == [0, 1] and then.tolist() == [2]
  held = tokens.arrays()
  rows = np.split(held['values'], held['offsets'][1:-1])
  assert rows[0].tolist() == [*processor.encode('a warm film'), 1]
  whole = processor.encode('one of many words that are too many')
  assert rows[1].tolist() == [*whole[:4], 1]
  assert rows[2].tolist() == [*processor.encode('warm'), 1]


def test_labelled_tables(tmp_path, processor):
  names = {
    'tweet_sentiment_set1': 0.5,
    'missing_word': 2.0,
    'word_order_words': 1,
  }
  described = {name: {'rate': rate} for name, rate in names.items()}
  for name in names:
    (tmp_path / name).mkdir()
    lines = ['text\ttarget', f'in {name}\torder', 'a "film"\trandom', '']
    (tmp_path / name / 'train.tsv').write_text('\n'.join(lines))
  tokens = mixture.Tokens(processor, 64)
  kept, found = mixture.labelled(tmp_path, described, tokens, processor)
  # no open answers
  assert kept == ['tweet_sentiment_set1', 'word_order_words']
  assert found['labelled_task'].tolist() == [0, 0, 1, 1]
  assert found['labelled_row'].tolist() == [0, 1, 2, 3] and len(tokens) == 4
  assert found['labelled_rate'].tolist() == [0.5, 1]
  words = [processor.decode([int(i)]) for i in found['labelled_target']]
  assert words == ['order', 'random'] * 2


def test_words_a_prototype_may_stand_for(processor):
  words = Words(processor)
  held_out = types.SimpleNamespace(held_out_labels=lambda: {'negative', 'zzz'})
  described = {'a': {'labels': ['noun', 'verb']}, 'b': {'labels': None}}
  found = mixture.label_words(words, held_out, described)
  assert found[:600] == words.ranked[FUNCTION_WORDS : FUNCTION_WORDS + 600]
  assert {'negative', 'same', 'opposite'} <= set(found)
  assert 'zzz' not in found and len(found) == len(set(found))


def test_domains_agree_with_the_tasks():
  named = [task for tasks in DOMAINS.values() for task in tasks]
  assert set(named) <= set(TASKS)
  assert set(BORROWED) | {d for d, tasks in DOMAINS.items() if tasks} == {
    *DOMAINS
  }
  assert PARTS == ('glosses', 'reviews', 'sentences', 'words', 'pairs')


def test_files_are_whole_or_absent(tmp_path):
  file = tmp_path / 'new' / 'arrays.npz'
  archive.save(file, {'a': np.arange(3)})
  assert archive.load(file, 'mixture')['a'].tolist() == [0, 1, 2]

  class Torn:
    def __array__(self, *args, **kwargs):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    archive.save(file, {'b': Torn()})
  assert list(archive.load(file, 'mixture')) == ['a']
  assert [f.name for f in file.parent.iterdir()] == ['arrays.npz']


def test_missing_inputs(tmp_path, monkeypatch):
  monkeypatch.setattr(mixture, 'Corpora', lambda folder: None)
  argv = [
    f'--{name}={tmp_path}/{name}' for name in ('source', 'tasks', 'teacher')
  ]
  argv.append(f'--out={tmp_path}/mixture.npz')
  with pytest.raises(UserError, match='mixture.json is not there; .*--tasks'):
    mixture.main(argv)
  (tmp_path / 'tasks').mkdir()
  (tmp_path / 'tasks' / 'mixture.json').write_text(json.dumps({}))
  with pytest.raises(UserError, match=r'train\.npz is not there; .*spans'):
    mixture.main(argv)
  archive.save(tmp_path / 'tasks' / 'spans' / 'train.npz', {})
  with pytest.raises(UserError, match=r'glosses\.npz is not there; .*teacher'):
    mixture.main(argv)


def test_a_teacher_that_is_not_installed(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='pip install torch sentence'):
    teacher.encoder()
