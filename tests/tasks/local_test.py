"""Tasks from files: what is read, and what each mistake says."""

import dataclasses
import json

import pytest

from prompt_jax.errors import UserError
from prompt_jax.tasks import examples, features, local

seqio = pytest.importorskip('seqio')
LABELS = ['negative', 'positive']


@pytest.fixture(autouse=True)
def _clean_registry():
  before = set(seqio.TaskRegistry.names())
  yield
  for name in set(seqio.TaskRegistry.names()) - before:
    seqio.TaskRegistry.remove(name)


@pytest.fixture
def write(tmp_path):
  def write(text, name='train.tsv'):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)

  return write


def task(path, **settings):
  settings = {'name': 'films', 'labels': LABELS} | settings
  return local.FileTask(files={'train': path}, **settings)


def test_tsv_is_split_on_tabs_alone(write):
  path = write('text\tlabel\r\n"so, so\tpositive\r\na\u2028b "c"\tnegative\r\n')
  assert local.examples(task(path), 'train') == [
    ('"so, so', 'positive'),
    ('a\u2028b "c"', 'negative'),
  ]


def test_csv_and_jsonl_hold_the_same(write):
  csv = write('\ufefftext,label\n"one, ""two""\nthree",7\n', 'a.csv')
  line = json.dumps({'text': 'one, "two"\nthree', 'label': 7, 'id': None})
  jsonl = write(line + '\n\n', 'a.jsonl')
  expected = [('one, "two"\nthree', '7')]
  for path in (csv, jsonl):
    assert local.examples(task(path, labels=None), 'train') == expected


def test_template_and_verbalizer(write):
  path = write('text_a\ttext_b\tgold\nbig{}\tlarge\t1\nbig\tsmall\t0\n')
  pairs = task(
    path,
    template='a: {text_a} {{b}}: {text_b}',
    label_column='gold',
    labels=['0', '1'],
    verbalizer={'1': 'same', '0': 'different'},
  )
  assert local.examples(pairs, 'train') == [
    ('a: big{} {b}: large', 'same'),
    ('a: big {b}: small', 'different'),
  ]
  assert pairs.target_texts() == ['different', 'same']


VERBALISED = {
  'labels': ['0', '1'],
  'verbalizer': {'1': 'same', '0': 'different'},
}


def test_what_is_reported_is_the_label(write):
  path = write('text\tlabel\na\t1\nb\t0\nc\t1\n')
  pairs = task(path, metric=['accuracy', 'pearson'], **VERBALISED)
  assert pairs.label_of('same') == '1' and pairs.label_of('so') == 'so'
  assert pairs.label_of('1') == "'1'"  # no answer, although a label
  assert task(path).label_of('1') == '1'
  found = local.register(pairs, features.vocabulary('bytes'))
  targets = [
    found.postprocess_fn(row['targets_pretokenized'].decode(), is_target=True)
    for row in found.get_dataset(
      split='train', shuffle=False
    ).as_numpy_iterator()
  ]
  assert targets == ['1', '0', '1']
  said = [found.postprocess_fn(x, example=None) for x in ('same', 'same', '1')]
  accuracy, pearson = found.predict_metric_fns
  assert accuracy(targets, said) == {
    'accuracy': pytest.approx(100 / 3),
    'outside': pytest.approx(100 / 3),
  }
  assert pearson(targets, targets)['pearson'] == pytest.approx(100)


def test_labels_in_place_of_target_texts(write):
  path = write('text\tlabel\na\t1\n')
  task(path, **VERBALISED).check_answers(['same', 'maybe'])
  task(path).check_answers(['positive', 'so'])
  with pytest.raises(UserError, match="'1', a label .* says 'same'; expected"):
    task(path, **VERBALISED).check_answers(['same', '1'])


def test_inputs_of_rows_without_labels():
  pairs = task('unread.tsv', template='{text_a} - {text_b}, {text_a}')
  assert local.columns(pairs) == ['text_a', 'text_b']
  rows = [(2, {'text_a': 'big', 'text_b': 7})]
  assert local.inputs(pairs, rows, 'a.jsonl') == ['big - 7, big']
  with pytest.raises(UserError) as caught:
    local.inputs(pairs, [*rows, (5, {'text_a': 'big'})], 'a.jsonl')
  for text in ("a.jsonl line 5 has no column 'text_b'", "task 'films'"):
    assert text in str(caught.value)
  with pytest.raises(UserError, match='expected a list of texts'):
    local.inputs(task('unread.tsv', labels='no'), [], 'a.jsonl')


def test_registered_task_keeps_texts_and_ends_in_eos(write):
  vocabulary = features.vocabulary('bytes')
  path = write('text\tlabel\nfine\tpositive\nbad\tnegative\n')
  found = local.register(
    task(path, metric=['accuracy', 'f1_macro']), vocabulary
  )
  assert found.num_input_examples('train') == 2
  rows = list(
    seqio.get_mixture_or_task('films')
    .get_dataset(sequence_length=None, split='train', shuffle=False)
    .as_numpy_iterator()
  )
  assert rows[0]['inputs'].tolist() == [ord(c) + 3 for c in 'fine'] + [1]
  assert rows[1]['targets_pretokenized'] == b'negative'
  assert rows[1]['inputs_pretokenized'] == b'bad'
  scores = [fn(['positive'], ['great']) for fn in found.predict_metric_fns]
  assert scores[0] == {'accuracy': 0.0, 'outside': 100.0}
  assert set(scores[1]) == {'f1_macro', 'outside'}
  shuffled = found.get_dataset(split='train', shuffle=True, seed=3)
  assert len(list(shuffled)) == 2
  assert local.definition('films').labels == LABELS


def test_same_twice_is_fine_and_another_is_not(write):
  path = write('text\tlabel\nfine\tpositive\n')
  one = task(path, vocabulary='bytes')
  assert local.register(one) is local.register(dataclasses.replace(one))
  with pytest.raises(UserError, match="'films' already stands for another"):
    local.register(dataclasses.replace(one, template='{text}!'))
  write('text\tlabel\nother rows\tpositive\n')
  with pytest.raises(UserError, match='other files, rows'):
    local.register(one)
  seqio.TaskRegistry.remove('films')
  assert local.register(one).num_input_examples('train') == 1


def test_another_vocabulary_takes_the_name(write):
  one = task(write('text\tlabel\nfine\tpositive\n'), vocabulary='bytes')
  of = lambda found: found.output_features['inputs'].vocabulary.vocab_size
  before = local.register(one)
  after = local.register(one, 'shipped')
  assert (of(before), of(after)) == (259, features.vocabulary().vocab_size)
  assert seqio.TaskRegistry.get('films') is after
  assert local.register(one, 'shipped') is after
  with pytest.raises(UserError, match='already stands for another'):
    local.register(dataclasses.replace(one, template='{text}!'), 'bytes')
  assert examples.provider('films') is after
  assert examples.provider('films', 'bytes') is after  # it was registered with
  for found, bytes_or_pieces in ((before, 'bytes'), (after, 'shipped')):
    tokens, _ = examples.load(found, 'train', {'inputs': 31, 'targets': 31})
    want = [*features.encoder(bytes_or_pieces)('fine'), features.EOS]
    assert tokens.inputs[0].tolist() == want


ROWS = 'text\tlabel\nfine\tpositive\n'
MISTAKES = [
  (ROWS + 'bad\tnegativ\n', {}, r"line 3 .*'negativ'.*Nearest: 'negative'"),
  (ROWS + 'bad\n', {}, r'line 3 has 1 fields; expected 2 .*\(text, label\)'),
  (ROWS, {'template': '{txt}'}, "no column 'txt'.*are: text, label.*'text'"),
  (ROWS, {'template': '{text'}, 'template .* cannot be read'),
  (ROWS, {'template': '{text:d}'}, 'template .* cannot be read'),
  (ROWS, {'label_column': 'gold'}, "no column 'gold', which label_column"),
  (ROWS, {'labels': ['a', 'b', 'a']}, "labels .* hold 'a' more than once"),
  (ROWS, {'labels': []}, r'expected a list of texts'),
  (ROWS, {'labels': 'positive'}, r'expected a list of texts'),
  (ROWS, {'labels': [0, 1]}, "hold 0; expected texts. Write it in quotes: '0'"),
  (ROWS, {'verbalizer': {'positive': 'good'}}, 'expected those of the list'),
  (
    ROWS,
    {'verbalizer': {'positive': 'x', 'negative': 'x'}},
    "target texts .* hold 'x' more than once",
  ),
  (ROWS, {'metric': 'acuracy'}, "no metric 'acuracy'"),
  (ROWS, {'name': 'my films'}, "does not take the task name 'my films'"),
  ('text\tlabel\n', {}, 'holds no examples'),
  ('', {}, 'holds no examples'),
  (b'text\tlabel\nfine\tpositive\ncaf\xe9\tpositive\n', {}, 'line 3 .*0xe9'),
  ('text\ttext\nfine\tpositive\n', {}, "column 'text' twice"),
]


@pytest.mark.parametrize('content, settings, message', MISTAKES)
def test_mistakes_in_a_file_or_definition(write, content, settings, message):
  with pytest.raises(UserError, match='(?s)' + message):
    local.register(task(write(content), vocabulary='bytes', **settings))
  assert 'films' not in seqio.TaskRegistry.names()


@pytest.mark.parametrize(
  'line, message',
  [
    ('{"text": "a"', 'line 1 is not JSON'),
    ('["a", "b"]', 'line 1 holds a JSON list'),
    ('{"text": null, "label": "positive"}', "column 'text' holds None"),
    ('{"label": "positive"}', "line 1 has no column 'text'"),
  ],
)
def test_mistakes_in_json_lines(write, line, message):
  with pytest.raises(UserError, match=message):
    local.examples(task(write(line, 'a.jsonl')), 'train')


def test_broken_csv(write):
  with pytest.raises(UserError, match='line 2 is not CSV'):
    local.examples(task(write('text,label\n"a"b,c\n', 'a.csv')), 'train')


def test_missing_file_shows_the_nearest(write, tmp_path):
  write(ROWS, 'train.tsv')
  write(ROWS, 'something.tsv')
  with pytest.raises(UserError, match='The train file of .* there: train.tsv'):
    local.register(task(str(tmp_path / 'trian.tsv')), 'unused')
  with pytest.raises(UserError, match='does not exist'):
    local.register(task(str(tmp_path / 'no/such/a.tsv')), 'unused')
  with pytest.raises(UserError, match="ends in '.txt'; expected one of .tsv"):
    local.register(task(write(ROWS, 'a.txt')), 'unused')


def test_shipped_folder(tmp_path):
  (tmp_path / 'verses').mkdir()
  for split in ('train', 'test'):
    (tmp_path / 'verses' / f'{split}.tsv').write_text('text\tlabel\nah\tlaw\n')
  table = {'template': 'v: {text}', 'labels': ['law'], 'metric': 'f1_macro'}
  (tmp_path / 'tasks.json').write_text(
    json.dumps({'verses': table | {'licence': 'mine', 'notice': 'a.txt'}})
  )
  found = local.shipped('verses', tmp_path)
  assert sorted(found.files) == ['test', 'train']
  assert local.examples(found, 'test') == [('v: ah', 'law')]
  assert local.shipped_names(tmp_path) == ['verses']
  with pytest.raises(UserError, match="No task 'verse' .* Nearest: verses"):
    local.shipped('verse', tmp_path)


@pytest.mark.parametrize('name', local.shipped_names())
def test_shipped_task(name):
  pieces, _ = features.codec('shipped')
  found = local.shipped(name)
  assert sorted(found.files) == ['test', 'train', 'validation']
  inputs = {}
  for split in found.files:
    pairs = local.examples(found, split)  # checks every label
    inputs[split] = {text for text, _ in pairs}
    assert len(pairs) >= 300 and all(text.strip() for text, _ in pairs)
    for label in found.closed_labels() or ():
      assert label in {found.label_of(target) for _, target in pairs}
  assert not inputs['train'] & (inputs['validation'] | inputs['test'])
  for target in found.target_texts() or ():
    assert len(pieces(target)) == 1, f'{target!r} is no single piece'
  if found.closed_labels() is None:
    assert list(found.metric) == ['pearson', 'spearman']


def test_what_is_said_of_the_shipped_tasks():
  folder = features.ASSETS / 'tasks'
  table = json.loads((folder / 'tasks.json').read_text('utf-8'))
  assert len(table) == 13
  lines = (folder / 'README.md').read_text('utf-8').splitlines()
  rows = {line.split(' | ')[0][2:]: line for line in lines if ' | ' in line}
  for name, about in table.items():
    assert (features.ASSETS / 'licences' / about['notice']).is_file()
    assert f'](../licences/{about["notice"]})' in rows[name]
    counts = [
      len((folder / name / f'{split}.tsv').read_text('utf-8').split('\n')) - 2
      for split in ('train', 'validation', 'test')
    ]
    assert ' / '.join(map(str, counts)) in rows[name]
    assert all(label in rows[name] for label in about.get('labels', ()))


def test_vocabulary_errors_and_digest(write, tmp_path):
  broken = write('not a model', 'a.model')
  with pytest.raises(UserError, match='is not a SentencePiece model'):
    features.vocabulary(broken)
  with pytest.raises(UserError, match='b.model does not exist.*a.model'):
    features.vocabulary(str(tmp_path / 'b.model'))
  same = write('not a model', 'c.model')
  assert features.vocabulary_digest(broken) == features.vocabulary_digest(same)
  other = write('not a modem', 'd.model')
  assert features.vocabulary_digest(broken) != features.vocabulary_digest(other)
  assert len(features.vocabulary_digest('bytes')) == 16
