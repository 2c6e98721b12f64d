"""Batches of pretraining: of (seed, step), of one bucket, of their shares."""

import numpy as np
import pytest

from launch.pretrain import rows
from prompt_jax.errors import UserError
from tests.launch import mixtures


@pytest.fixture
def file(tmp_path):
  return mixtures.write(tmp_path)


def _same(one, two) -> bool:
  return all(np.array_equal(one[name], two[name]) for name in one)


def test_a_batch_is_a_function_of_seed_and_step(file):
  data, again = rows.Rows(file, seed=3), rows.Rows(file, seed=3)
  later = data.batches(5)
  for step in (5, 6, 7):
    assert _same(next(later), again.batch(step))
  assert not _same(data.batch(5), rows.Rows(file, seed=4).batch(5))
  assert data.fingerprint() == again.fingerprint()
  assert data.fingerprint() != rows.Rows(file, seed=4).fingerprint()
  assert data.fingerprint() != rows.Rows(file, span_share=0.5).fingerprint()


def test_every_row_fits_its_bucket(file):
  data, met = rows.Rows(file, batch_scale=0.5, span_share=0.0), set()
  bounds = [0, *(longest for longest, _ in rows.BUCKETS)]
  for step in range(67):
    batch = data.batch(step)
    tokens = batch['encoder_input_tokens']
    bucket = bounds.index(tokens.shape[1]) - 1
    assert len(tokens) == rows.BUCKETS[bucket][1] // 2
    lengths = (tokens > 0).sum(axis=1)
    assert (lengths > bounds[bucket]).all()
    assert (tokens[np.arange(len(tokens)), lengths - 1] == 1).all()
    # nothing real behind the padding
    behind = np.arange(tokens.shape[1]) >= lengths[:, None]
    assert not tokens[behind].any()
    assert tokens.dtype == batch['task_ids'].dtype == np.int32
    met.add(bucket)
  assert met == {0, 1, 2, 3}


def _within(values, totals, share) -> None:
  """Asserts sum(values) / sum(totals) = share within 3 standard errors.

  The rows of a batch are alike (one bucket), so the batch is the unit.
  """
  values, totals = np.array(values, float), np.array(totals, float)
  off = values - share * totals
  error = off.std(ddof=1) * len(off) ** 0.5 / totals.sum()
  assert abs(off.sum() / totals.sum()) < 3 * error


def test_shares_are_those_asked_for(file):
  shares = (0.3, 0.25, 0.05, 0.1, 0.1, 0.2)
  data = rows.Rows(file, batch_scale=0.2, span_share=0.1, shares=shares)
  parts, spans, totals, counts, second = mixtures.arrays(), [], [], [], []
  for step in range(500):
    ids = data.batch(step)['task_ids']
    spans.append(ids[0] == mixtures.LEARNED - 1)
    if spans[-1]:
      assert (ids == mixtures.LEARNED - 1).all()
      continue
    labelled = ids < mixtures.LEARNED
    number = parts['program_part'][ids[~labelled] - mixtures.LEARNED]
    counts.append([labelled.sum(), *np.bincount(number, minlength=5)])
    second.append((ids == 1).sum())
    totals.append(len(ids))
  for share, column in zip(shares, np.transpose(counts), strict=True):
    _within(column, totals, share)
  _within(spans, np.ones(500), 0.1)
  # rates 0.5 and 2: the second task is four fifths of the labelled rows
  _within(second, np.array(counts)[:, 0], 0.8)


def test_labelled_rows_have_their_target(file):
  held = mixtures.arrays()
  place = {
    tuple(held['values'][start:end]): i
    for i, row in enumerate(held['labelled_row'])
    for start, end in [held['offsets'][row : row + 2]]
  }
  data = rows.Rows(file, span_share=0.0, shares=(1, 0, 0, 0, 0, 0))
  batch = data.batch(0)
  for text, task, target in zip(
    batch['encoder_input_tokens'],
    batch['task_ids'],
    batch['decoder_target_tokens'],
    strict=True,
  ):
    at = place[tuple(text[text > 0])]
    assert task == held['labelled_task'][at]
    assert target.tolist() == [held['labelled_target'][at], 1]


def test_span_steps(file):
  held = mixtures.arrays()
  batch = rows.Rows(file, batch_scale=0.5, span_share=1.0).batch(11)
  assert batch['encoder_input_tokens'].shape == (20, 48)
  known = {tuple(row) for row in held['span_inputs']}
  assert {tuple(row) for row in batch['encoder_input_tokens']} <= known
  shifted = batch['decoder_input_tokens'][:, 1:]
  np.testing.assert_array_equal(shifted, batch['decoder_target_tokens'][:, :-1])
  assert (batch['task_ids'] == mixtures.LEARNED - 1).all()


def test_what_a_user_can_get_wrong(file, tmp_path):
  with pytest.raises(UserError, match='lost.npz is not there; .*mixture'):
    rows.Rows(str(tmp_path / 'lost.npz'))
  with pytest.raises(UserError, match='shares has 2 numbers; expected 6'):
    rows.Rows(file, shares=(0.5, 0.5))
  (tmp_path / 'other').mkdir()
  offsets = mixtures.arrays()['offsets'].copy()
  offsets[1:] += 65 - offsets[1]
  values = np.ones(offsets[-1], np.int16)
  long = mixtures.write(tmp_path / 'other', offsets=offsets, values=values)
  with pytest.raises(UserError, match='a text of 65 pieces; expected at most'):
    rows.Rows(long)
