"""Hugging Face folders: names, tied tables, copies, pickles."""

import pathlib
import pickle

import numpy as np
import pytest

from prompt_jax.t5 import hf_checkpoint, pretrained
from tests.t5.bases import (
  EMBEDDING,
  HEAD,
  SHARED,
  N,
  assert_equal,
  base_shapes,
  expected,
  fails,
  weights,
  write_hf,
)


@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('shards', [1, 3])
def test_hugging_face_round_trip(tmp_path, gated, shards):
  wanted = weights(gated=gated)
  path = write_hf(tmp_path / 'hf', wanted, shards=shards)
  assert_equal(pretrained.load(path, expected(gated=gated)), wanted)
  assert pretrained.inspect(path)[0] == 'hf'


def test_names_map_both_ways():
  for path in base_shapes() | base_shapes(gated=False):
    name, _ = hf_checkpoint.hf_name(path)
    assert hf_checkpoint.slash_path(name) == path
  assert hf_checkpoint.hf_name('encoder/prompt/prompt') is None
  # transformers' own converter puts the 1.0 decoder's wi here; that is a bug
  stray = 'encoder.block.0.layer.2.DenseReluDense.wi.weight'
  assert hf_checkpoint.slash_path(stray) is None


def test_copies_of_the_embedding_have_to_be_equal(tmp_path):
  wanted = weights(gated=False)
  copies = {
    name: wanted[EMBEDDING].copy()
    for name in ('encoder.embed_tokens.weight', HEAD)
  }
  table = (
    'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
  )
  copies[table] = np.ones((32, N), np.float32)
  path = write_hf(tmp_path / 'a', wanted, extra=copies)
  assert_equal(pretrained.load(path, expected(gated=False)), wanted)
  for name, advice in (
    (HEAD, '"tie_word_embeddings": false'),
    ('encoder.embed_tokens.weight', 'share one table'),
  ):
    extra = copies | {name: copies[name] + 1}
    path = write_hf(tmp_path / name, wanted, extra=extra)
    fails(
      lambda path=path: pretrained.load(path, expected(gated=False)),
      f'{name} with other values than {SHARED}',
      advice,
    )


@pytest.mark.parametrize(
  ('config', 'has_head', 'tied'),
  [
    ({'tie_word_embeddings': False}, True, False),
    ({'tie_word_embeddings': False}, False, True),
    ({'tie_word_embeddings': True}, True, True),
    ({}, True, True),
    ({'model_type': 'mt5'}, True, False),
    # transformers >= 5 writes true for every T5
    ({'tie_word_embeddings': True, 'scale_decoder_outputs': False}, 1, False),
  ],
)
def test_tied(config, has_head, tied):
  names = [SHARED, HEAD] if has_head else [SHARED]
  assert hf_checkpoint.is_tied(config, names) == tied


def test_pickles_are_refused(tmp_path):
  class Trap:
    def __reduce__(self):
      return (pathlib.Path.touch, (tmp_path / 'opened',))

  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'pytorch_model.bin').write_bytes(pickle.dumps(Trap()))
  fails(
    lambda: pretrained.load(str(tmp_path), expected()),
    'pytorch_model.bin',
    'pickles',
    'expected model.safetensors',
    'safe_serialization=True',
  )
  assert not (tmp_path / 'opened').exists()


def test_torn_hugging_face_folders_name_the_file(tmp_path):
  path = write_hf(tmp_path / 'a', weights(), shards=3)
  inspect = lambda: pretrained.inspect(path)
  shard = tmp_path / 'a/model-1.safetensors'
  shard.write_bytes(shard.read_bytes()[:-5])
  fails(inspect, str(shard), 'Copy it again')
  shard.unlink()
  fails(inspect, str(shard), 'Copy it again')
  (tmp_path / 'a/model.safetensors.index.json').write_text('{"weight_map"')
  fails(inspect, 'model.safetensors.index.json could not be read')
  (tmp_path / 'a/config.json').unlink()
  fails(inspect, 'config.json could not be read')
