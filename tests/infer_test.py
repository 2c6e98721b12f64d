"""Inference from files: order and fields are kept."""

import json

import numpy as np
import pytest

from prompt_jax import infer, tuned
from prompt_jax.errors import UserError
from prompt_jax.infer import Inference, rows_of
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
