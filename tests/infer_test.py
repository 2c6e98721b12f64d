"""Inference from files: order and fields are kept."""

import json

import numpy as np
import pytest

from prompt_jax import infer, tuned
from prompt_jax.errors import UserError
from prompt_jax.infer import Inference, rows_of
from prompt_jax.predict import Decoding
from prompt_jax.tasks import local
from tests import tiny


def write(path, text):
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return str(path)


def inference(tmp_path, text, name='in.txt', **settings):
  return Inference(
    input_file=write(tmp_path / name, text),
    output_file=str(tmp_path / 'out' / 'said.jsonl'),
    config=tiny.model().config,
    base=tiny.base(),
    lengths={'inputs': 13, 'targets': 5},
    batch_size=3,
    vocabulary='bytes',
    **settings,
  )


def said(run):
  with open(run.output_file, encoding='utf-8') as file:
    return [json.loads(line) for line in file]


class Echo:
  """A model that answers with what it was asked."""

  def generate(self, texts, decoding):
    return [f'{decoding.method} {text}' for text in texts]

  def scores(self, texts, labels):
    return np.array(
      [[float(label in text) for label in labels] for text in texts]
    )


@pytest.fixture
def echo(monkeypatch):
  asked = {}

  def load(*args, **settings):
    asked.update(settings, args=args)
    return Echo()

  monkeypatch.setattr(tuned, 'load', load)
  return asked


def test_jsonl_keeps_order_and_fields(tmp_path, echo, capsys):
  rows = [{'id': i, 'inputs': f'é {9 - i}', 'x': [i, None]} for i in range(7)]
  text = '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)
  run = inference(tmp_path, text, 'in.jsonl')
  assert infer.infer(run) == 7
  found = said(run)
  assert [list(row) for row in found] == [
    ['id', 'inputs', 'x', 'prediction']
  ] * 7
  for row, old in zip(found, rows, strict=True):
    assert row.pop('prediction') == f'greedy {old["inputs"]}'
    assert row == old
  assert '7 predictions in' in capsys.readouterr().out
  assert echo['batch_size'] == 3 and echo['vocabulary'] == 'bytes'


def test_labels_give_scores(tmp_path, echo):
  run = inference(tmp_path, 'a b\nb\n', labels=['b', 'a b'])
  infer.infer(run)
  assert [row['prediction'] for row in said(run)] == ['b', 'b']
  assert [row['scores'] for row in said(run)] == [
    {'b': 1.0, 'a b': 1.0},
    {'b': 1.0, 'a b': 0.0},
  ]


PAIR = {'text_a': 'so', 'text_b': 'the same'}


def test_a_shipped_task_answers_with_its_labels(tmp_path, echo):
  text = json.dumps({'id': [7], **PAIR}) + '\n'
  run = inference(tmp_path, text, 'in.jsonl', task='word_relation')
  assert infer.infer(run) == 1
  (row,) = said(run)
  assert list(row) == ['id', 'text_a', 'text_b', 'prediction', 'scores']
  assert row['prediction'] == 'synonym'  # the model said 'same'
  assert row['scores'] == {
    **{'synonym': 1.0, 'antonym': 0.0, 'hypernym': 0.0},
    **{'part': 0.0, 'unrelated': 0.0},
  }


def test_labels_given_with_a_task(tmp_path, echo):
  text = json.dumps(PAIR)
  settings = {'task': 'word_relation', 'labels': ['kind', 'so']}
  run = inference(tmp_path, text, 'in.jsonl', **settings)
  infer.infer(run)
  assert said(run)[0]['scores'] == {'hypernym': 0.0, 'so': 1.0}
  run.labels = ['same', 'hypernym']
  with pytest.raises(UserError, match="hold 'hypernym', a label of task"):
    infer.infer(run)


def test_a_task_without_labels_generates(tmp_path, echo):
  run = inference(tmp_path, 'so\n so\n', task='tweet_valence')
  infer.infer(run)  # a single column, so a text file will do
  assert said(run) == [
    {'text': 'so', 'prediction': 'greedy so'},
    {'text': ' so', 'prediction': 'greedy  so'},
  ]


@pytest.mark.parametrize('name', ['in.tsv', 'in.csv'])
def test_a_task_of_ones_own(tmp_path, echo, name):
  task = local.FileTask(
    name='mine', files={}, template='a {word}', labels=['a b', 'c']
  )
  text = 'word\tid\nb\t3\n'.replace('\t', ',' if 'csv' in name else '\t')
  run = inference(tmp_path, text, name, task=task)
  infer.infer(run)
  assert said(run) == [
    {
      **{'word': 'b', 'id': '3', 'prediction': 'a b'},
      'scores': {'a b': 1.0, 'c': 0.0},
    }
  ]


@pytest.mark.parametrize(
  ('name', 'text', 'settings', 'texts'),
  [
    (
      'in.jsonl',
      json.dumps(PAIR) + '\n\n{"text_a": "so"}',
      {'task': 'word_relation'},
      ["line 3 has no column 'text_b'", "'{text_a} - {text_b}' of task"],
    ),
    (
      'in.txt',
      'so',
      {'task': 'word_relation'},
      ['reads the columns text_a, text_b', 'ends in one of .tsv, .csv, .jsonl'],
    ),
    (
      'in.jsonl',
      '{"text": ["so"]}',
      {'task': 'movie_sentiment'},
      ["line 1 column 'text' holds ['so']; expected a text or a number"],
    ),
    (
      'in.txt',
      'so',
      {'task': 'glue_sst2_v002'},
      [
        'expected the name of a shipped task or @local.FileTask()',
        'without TensorFlow',
      ],
    ),
    (
      'in.txt',
      'so',
      {'task': ['movie_sentimen', 'word_relation']},
      ["is 'movie_sentimen'; expected the name", 'Nearest: movie_sentiment'],
    ),
    (
      'in.txt',
      'so',
      {'task': 'movie_sentiment', 'decoding': Decoding('beam', 3)},
      ["DECODING is 'beam' with NUM_DECODES=3, but 2 labels are ranked"],
    ),
  ],
)
def test_tasks_that_cannot_be_asked(
  tmp_path, echo, name, text, settings, texts
):
  run = inference(tmp_path, text, name, **settings)
  with pytest.raises(UserError) as caught:
    infer.infer(run)
  for each in texts:
    assert each in str(caught.value)
  assert not echo, 'the base was loaded first'


BANK = {'word_relation': 'w.npy', 'tweet_valence': 't.npy', 'other': 'o.npy'}
MIXED = ['word_relation', 'tweet_valence']


class Bank(Echo):
  """A model with a prompt each that answers with task and text."""

  def generate(self, texts, decoding, tasks):
    return [f'{t} {x}' for t, x in zip(tasks, texts, strict=True)]

  def scores(self, texts, labels, tasks):
    self.asked = texts, labels, tasks
    each = [labels[t] if isinstance(labels, dict) else labels for t in tasks]
    return [
      np.array([float(label in text) for label in own])
      for own, text in zip(each, texts, strict=True)
    ]


@pytest.fixture
def bank(monkeypatch):
  model = Bank()
  monkeypatch.setattr(tuned, 'load', lambda *args, **settings: model)
  return model


def lines(*rows):
  return '\n'.join(json.dumps(row) for row in rows)


def test_rows_of_several_tasks(tmp_path, bank):
  text = lines(
    {'task': 'tweet_valence', 'text': 'so', 'id': 7},
    {**PAIR, 'task': 'word_relation'},
    {'task': 'tweet_valence', 'text': 'no'},
  )
  settings = {'task': MIXED, 'prompt_file': BANK}
  run = inference(tmp_path, text, 'in.jsonl', **settings)
  assert infer.infer(run) == 3
  first, second, third = said(run)
  assert first == {
    **{'task': 'tweet_valence', 'text': 'so', 'id': 7},
    'prediction': 'tweet_valence so',
  }
  assert second['prediction'] == 'synonym' and len(second['scores']) == 5
  assert third['prediction'] == 'tweet_valence no'
  texts, _, tasks = bank.asked
  assert len(texts) == 1 and tasks == ['word_relation']
  run.decoding = Decoding('beam', 2)  # of those that are generated
  assert infer.infer(run) == 3


def test_inputs_of_several_prompts(tmp_path, bank):
  rows = [{'inputs': f'no {i}', 'task': task} for i, task in enumerate(BANK)]
  settings = {'prompt_file': BANK, 'labels': ['yes', 'no']}
  run = inference(tmp_path, lines(*rows), 'in.jsonl', **settings)
  infer.infer(run)
  assert [row['prediction'] for row in said(run)] == ['no'] * 3
  assert bank.asked[1:] == (['yes', 'no'], list(BANK))
  run.labels = None
  infer.infer(run)
  assert said(run)[1]['prediction'] == 'tweet_valence no 1'


def test_one_task_of_a_bank_needs_no_field(tmp_path, bank):
  settings = {'prompt_file': BANK, 'task': 'tweet_valence'}
  run = inference(tmp_path, 'so', **settings)
  infer.infer(run)
  assert said(run)[0]['prediction'] == 'tweet_valence so'


@pytest.mark.parametrize(
  ('text', 'settings', 'texts'),
  [
    (
      lines({'task': 'tweet_valenc', 'text': 'so'}),
      {'task': MIXED},
      ["line 1 has 'task' 'tweet_valenc'; expected", 'Nearest: tweet_valence'],
    ),
    (
      lines({'task': 'tweet_valence', 'txt': 'so'}),
      {'task': MIXED},
      ["line 1 has no column 'text'"],
    ),
    (lines({'text': 'so'}), {'task': MIXED}, ["line 1 has 'task' None"]),
    (lines({'inputs': 'so'}), {}, ['Row 1 of', "has 'task' None; expected"]),
    (
      'so',
      {'task': MIXED, 'prompt_file': 'a.npy'},
      ["but PROMPT_FILE is 'a.npy'; expected a prompt for each"],
    ),
    (
      'so',
      {'task': [*MIXED, 'movie_sentiment']},
      ["expected one for 'movie_sentiment' too, of MIXTURE_OR_TASK_NAME"],
    ),
    (
      'so',
      {'task': MIXED, 'labels': ['a']},
      ["LABELS is ['a'], but MIXTURE_OR_TASK_NAME lists 2 tasks"],
    ),
  ],
)
def test_mixtures_that_cannot_be_asked(tmp_path, bank, text, settings, texts):
  settings = {'prompt_file': BANK} | settings
  run = inference(tmp_path, text, 'in.jsonl', **settings)
  with pytest.raises(UserError) as caught:
    infer.infer(run)
  for each in texts:
    assert each in str(caught.value)


def test_a_mixture_needs_fields(tmp_path, bank):
  run = inference(tmp_path, 'so', task=MIXED, prompt_file=BANK)
  with pytest.raises(UserError, match='an input a line, but MIXTURE_OR_TASK'):
    infer.infer(run)


@pytest.mark.slow
def test_a_mixture_equals_one_task_at_a_time(tmp_path):
  rng, files, tasks = np.random.default_rng(67), {}, {}
  for name, labels in ('one', ['no', 'yes']), ('two', ['a', 'b', 'cd']):
    files[name] = str(tmp_path / f'{name}.npy')
    np.save(files[name], 3 * rng.normal(size=(2, 7)).astype(np.float32))
    tasks[name] = local.FileTask(
      name=name, files={}, template='{x}', labels=labels
    )
  rows = [{'x': f'film {i}', 'task': ['one', 'two'][i % 2]} for i in range(7)]
  settings = {'prompt_file': files, 'task': [*tasks.values()]}
  run = inference(tmp_path, lines(*rows), 'in.jsonl', **settings)
  assert infer.infer(run) == 7
  mixed = said(run)
  assert [row['x'] for row in mixed] == [row['x'] for row in rows]
  for name, task in tasks.items():
    own = [row for row in rows if row['task'] == name]
    settings = {'prompt_file': files[name], 'task': task}
    run = inference(tmp_path, lines(*own), 'in.jsonl', **settings)
    infer.infer(run)
    for row, wanted in zip(
      [row for row in mixed if row['task'] == name], said(run), strict=True
    ):
      assert row['prediction'] == wanted['prediction']
      assert row['scores'] == pytest.approx(wanted['scores'], 1e-6, 1e-6)


@pytest.mark.slow
def test_with_a_model(tmp_path):
  run = inference(tmp_path, 'film 0\n\nfilm 4\nfilm 9\n', labels=['no', 'yes'])
  infer.infer(run)
  found = said(run)
  assert [row['inputs'] for row in found] == ['film 0', '', 'film 4', 'film 9']
  for row in found:
    assert row['prediction'] == max(row['scores'], key=row['scores'].get)


def test_lines_of_text(tmp_path):
  path = write(tmp_path / 'a.txt', '\ufeffone\u2028 two\r\n\n three')
  assert [row['inputs'] for row in rows_of(path)] == [
    'one\u2028 two',
    '',
    ' three',
  ]
  assert rows_of(write(tmp_path / 'b.txt', '')) == []


def test_lines_of_json(tmp_path):
  text = '{"inputs": "one\u2028 two"}\n\n{"inputs": ""}\n'
  path = write(tmp_path / 'a.jsonl', text)
  assert rows_of(path) == [{'inputs': 'one\u2028 two'}, {'inputs': ''}]


@pytest.mark.parametrize(
  ('name', 'text', 'texts'),
  [
    (
      'a.jsonl',
      '{"inputs": "x"}\n{"input": "y"}',
      ['Line 2 of', "text 'inputs'"],
    ),
    ('a.jsonl', '{"inputs": 3}', ['Line 1 of']),
    ('a.jsonl', '["x"]', ['Line 1 of']),
    ('a.jsonl', '{"inputs"', ['Line 1 of']),
    ('a.txt', b'caf\xe9', ['not UTF-8', 'iconv -f CP1252 -t UTF-8 a.txt']),
  ],
)
def test_rows_that_cannot_be_read(tmp_path, name, text, texts):
  with pytest.raises(UserError) as caught:
    rows_of(write(tmp_path / name, text))
  for each in texts:
    assert each in str(caught.value)


def test_a_missing_file(tmp_path):
  with pytest.raises(UserError, match='INPUT_FILE .* does not exist'):
    rows_of(str(tmp_path / 'none.txt'))
