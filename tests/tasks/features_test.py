"""Vocabularies: with SeqIO, and text <-> ids without it."""

import pytest
import sentencepiece

from prompt_jax.errors import UserError
from prompt_jax.tasks import features


@pytest.fixture(scope='module')
def model_file(tmp_path_factory):
  prefix = tmp_path_factory.mktemp('vocab') / 'tiny'
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['good not bad', 'bad not good'] * 7),
    model_prefix=str(prefix),
    vocab_size=17,
    hard_vocab_limit=False,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return f'{prefix}.model'


def test_codec_round_trip_without_bos_or_eos(model_file):
  encode, decode = features.codec(model_file)
  ids = encode('not good')
  assert ids and all(isinstance(i, int) for i in ids)
  assert 1 not in ids
  assert decode(ids) == 'not good'
  assert encode('') == []


def test_codec_leaves_sentinels_out(model_file):
  encode, decode = features.codec(model_file)
  assert decode([*encode('bad'), 10_007]) == 'bad'


def test_codec_agrees_with_seqio(model_file):
  vocabulary = features.vocabulary(model_file)
  assert features.encoder(model_file)('bad good') == vocabulary.encode(
    'bad good'
  )


def test_bytes_agree_with_byt5():
  encode, decode = features.codec('bytes')
  assert encode('aé') == features.vocabulary('bytes').encode('aé')
  assert decode([*encode('aé'), 1, 300]) == 'aé'


def test_a_file_that_is_no_model_is_refused(tmp_path):
  bad = tmp_path / 'text.model'
  bad.write_text('not a model')
  with pytest.raises(UserError, match='text.model is not a SentencePiece'):
    features.codec(str(bad))
  with pytest.raises(UserError, match='does not exist'):
    features.codec(str(tmp_path / 'missing.model'))


def test_digest_tells_vocabularies_apart(model_file):
  digests = {
    features.vocabulary_digest(path)
    for path in ('shipped', 'bytes', model_file)
  }
  assert len(digests) == 3
