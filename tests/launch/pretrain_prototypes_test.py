"""Prototype tasks: the space, the prototypes, pairs, and what is drawn."""

import numpy as np
import pytest

from launch.pretrain import archive, prototypes, rows
from prompt_jax.errors import UserError
from tests.launch import mixtures


@pytest.fixture
def few(monkeypatch):
  """Counts that a hundred texts are enough for."""
  for name, value in {
    '_TEXTS': 23,
    '_CENTRES': (3, 5),
    '_PAIRS': 307,
    '_NEAR_PAIRS': 200,
    '_NEAR': 7,
    '_BLOCK': 19,
  }.items():
    monkeypatch.setattr(prototypes, name, value)


@pytest.fixture
def space(tmp_path):
  """Two domains of 200 texts in 13 dimensions, three of them large."""
  rng, scale = np.random.default_rng(3), np.array([9.0, 5, 3] + [0.1] * 10)
  for i, domain in enumerate(('one', 'two')):
    texts = [f'{domain} {n}' for n in range(200)]
    joined = np.frombuffer('\n'.join(texts).encode(), np.uint8)
    vectors = 20 * i + rng.normal(size=(200, 13)) * scale
    archive.save(
      tmp_path / f'{domain}.npz',
      {'text': joined, 'vectors': vectors.astype(np.float16)},
    )
  return prototypes.Space.fit(tmp_path, ('one', 'two'))


def test_a_space_is_centred_and_half_whitened(space, tmp_path):
  texts, z = space.read('two')
  assert texts[7] == 'two 7' and z.shape == (200, 13)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
  x = np.load(tmp_path / 'two.npz')['vectors'].astype(np.float32)
  y = np.concatenate(
    [
      (v - v.mean(axis=0)) @ space.basis
      for v in (x, np.load(tmp_path / 'one.npz')['vectors'].astype(np.float32))
    ]
  )
  # standard deviation s becomes s^(1/2); components are uncorrelated
  np.testing.assert_allclose(
    y.std(axis=0)[:3], np.sqrt([9, 5, 3]), rtol=0.1, err_msg='whitening'
  )
  off = np.corrcoef(y.T) - np.eye(13)
  assert np.abs(off).max() < 1e-3


def test_a_teacher_that_has_not_run(tmp_path):
  with pytest.raises(UserError, match=r'one\.npz is not there; .*teacher'):
    prototypes.Space.fit(tmp_path, ('one',))


def test_directions_tell_classes_apart(space):
  texts, z = space.read('one')
  labels = np.where(z[:, 0] > 0, 'up', 'down')
  table = list(zip(texts, labels, strict=True))
  three = [(t, 'abc'[i % 3]) for i, t in enumerate(texts)]
  two, other = prototypes.directions(space, 'one', {'t': table, 'u': three})
  assert two.shape == (2, 13) and other.shape == (3, 13)
  np.testing.assert_array_equal(two[0], -two[1])
  said = np.array(['down', 'up'])[(z @ two.T).argmax(axis=1)]
  assert (said == labels).mean() > 0.95
  with pytest.raises(UserError, match='none of the 1 texts of lost'):
    prototypes.directions(space, 'one', {'lost': [('absent', 'a')]})


def test_prototypes_of_a_part(few):
  rng = np.random.default_rng(5)
  z = mixtures.unit(rng, 97, 11)
  weights = mixtures.unit(rng, 3, 11)
  made = prototypes.part('words', np.arange(97), z, [weights], rng)
  centres = 2 * (3 + 5)
  assert made.kinds == (0, 23, 23 + centres, 23 + centres + 3 * 60)
  assert len(made.bank) == made.kinds[-1]
  np.testing.assert_allclose(np.linalg.norm(made.bank, axis=1), 1, rtol=1e-5)
  # a single text is the mean of six: each is near one text more than others
  nearest = np.sort(made.bank[:23] @ z.T, axis=1)[:, -6:]
  assert nearest.mean() > 0.5
  (classes,) = made.classes
  for own, rows_of in zip(weights, classes, strict=True):
    said = (made.bank[rows_of] @ weights.T).argmax(axis=1)
    assert (weights[said] == own).all(axis=1).mean() > 0.8


def test_features_of_pairs(few):
  rng = np.random.default_rng(7)
  words = [f'word{i}' for i in range(101)]
  z = mixtures.unit(rng, 101, 11)
  texts, features = prototypes.pairs(words, z, rng)
  assert features.shape == (len(texts), 11) and features.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
  place = {word: i for i, word in enumerate(words)}
  a, b = np.array([[place[w] for w in t.split(' - ')] for t in texts]).T
  assert (a != b).all()
  # the first feature is how near the two words are
  near = (z[a] * z[b]).sum(axis=1)
  assert np.corrcoef(near, features[:, 0])[0, 1] > 0.9
  # near pairs come first, and are nearer
  assert near[:150].mean() > near[-90:].mean() + 0.3


def test_pairs_that_are_held_out(few):
  words = [f'Word {i}' for i in range(13)]
  z = mixtures.unit(np.random.default_rng(7), 13, 11)
  made = lambda held: prototypes.pairs(
    words, z, np.random.default_rng(7), held
  )[0]
  every = made(())
  held = {frozenset(('word 3', 'word 5')), frozenset(('word 0', 'word 1'))}
  left_out = {
    f'Word {i} - Word {j}' for i, j in [(3, 5), (5, 3), (0, 1), (1, 0)]
  }
  assert left_out & set(every)
  assert made(held) == [text for text in every if text not in left_out]


def test_classes_share_a_word():
  held = mixtures.arrays(programs=401, prototypes_each=11)
  first = 24  # of the bank of the first part, where classes begin
  of_classes = np.flatnonzero(
    (held['program_part'] == 0) & (held['program_bank'] >= first).all(axis=1)
  )
  assert 5 < len(of_classes) < 40  # a quarter of one in five
  for m in of_classes:
    group = (held['program_bank'][m] - first) // 60
    words = held['program_word'][m]
    told = {g: set(words[group == g]) for g in range(mixtures.CLASSES)}
    assert all(len(each) == 1 for each in told.values())
    assert len(set.union(*told.values())) == mixtures.CLASSES
  sizes = [len(set(each)) for each in held['program_word']]
  assert min(sizes) >= 1 and max(sizes) <= 11


def test_programs_are_of_the_bank_of_their_part():
  held = mixtures.arrays()
  starts = np.cumsum([0, 24 + 180, 24, 24, 24, 24])
  number = held['program_part'][:, None]
  assert (held['program_bank'] >= starts[number]).all()
  assert (held['program_bank'] < starts[number + 1]).all()
  assert len(held['bank']) == starts[-1]


def test_the_nearest_prototype_answers(tmp_path):
  held = mixtures.arrays()
  data = rows.Rows(mixtures.write(tmp_path), span_share=0.0)
  place = {
    tuple(held['values'][start:end]): i
    for i, row in enumerate(held['part_row'])
    for start, end in [held['offsets'][row : row + 2]]
  }
  seen = 0
  for step in range(23):
    batch = data.batch(step)
    for text, task, (answer, eos) in zip(
      batch['encoder_input_tokens'],
      batch['task_ids'],
      batch['decoder_target_tokens'],
      strict=True,
    ):
      assert eos == 1
      if task < mixtures.LEARNED:
        continue
      at, program = place[tuple(text[text > 0])], task - mixtures.LEARNED
      assert held['program_part'][program] == held['part_of'][at]
      bank = held['bank'][held['program_bank'][program]].astype(np.float32)
      scores = bank @ held['z'][at].astype(np.float32)  # [P]
      best = np.flatnonzero(scores >= scores.max() - 1e-6)
      words = held['program_word'][program][best]
      assert answer in held['answers'][words]
      seen += 1
  assert seen > 500
