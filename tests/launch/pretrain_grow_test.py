"""A larger model that starts from a smaller one's run."""

import jax
import numpy as np
import pytest

from launch.pretrain import archive, grow, ship
from prompt_jax.errors import UserError
from prompt_jax.training import state as states
from prompt_jax.training.step import forward
from tests import tiny
from tests.launch import mixtures, pretraining

_WIDER = dict(
  d_model=13, d_ff=17, num_heads=7, num_encoder_layers=3, num_decoder_layers=2
)


def _random(model, seed):
  flat = states.initial(model, jax.random.key(seed), states.abstract(model)[0])
  return {path: np.asarray(x) for path, x in flat.items()}


def _table(width):
  rng = np.random.default_rng(5)
  shape = (tiny.SIZES['vocab_size'], width)
  return rng.normal(size=shape).astype(np.float32)


def _logits(model, flat):
  return np.asarray(jax.jit(lambda f: forward(model, f, tiny.batch()))(flat))


def _both():
  small, large = tiny.model(None), tiny.model(None, **_WIDER)
  return small, _random(small, 3), large, _random(large, 11)


def test_growth_keeps_the_function(monkeypatch):
  small, old, large, fresh = _both()
  before = _logits(small, old)
  assert np.std(before) > 0.1
  near = _logits(large, grow.grow(old, fresh, _table(13)))
  # norms of a stream that grew are off by what is beside it
  assert 0 < np.std(near - before) < 0.2 * np.std(before)
  monkeypatch.setattr(grow, 'BESIDE', 0.0)
  same = _logits(large, grow.grow(old, fresh, _table(13)))
  # the epsilon of the norms counts for more beside a smaller mean
  np.testing.assert_allclose(same, before, atol=1e-4)
  other = _logits(large, fresh)
  assert np.abs(other - before).max() > 0.1


def test_new_room_learns():
  _, old, large, fresh = _both()
  grown = grow.grow(old, fresh, _table(13))
  total = lambda flat: (forward(large, flat, tiny.batch()) ** 2).sum()
  gradients = jax.jit(jax.grad(total))(grown)
  out = np.asarray(gradients['encoder/layers_0/attention/out/kernel'])
  assert (np.abs(out[15:]).sum(axis=1) > 0).all()  # rows of the new heads
  new = np.asarray(gradients['encoder/layers_2/mlp/wo/kernel'])
  assert np.abs(new).max() > 0
  assert np.asarray(gradients['decoder/logits_dense/kernel'])[7:].any()


def test_a_smaller_model_cannot_be_grown_into():
  small, old, _, _ = _both()
  less = _random(tiny.model(None, d_model=13, d_ff=5), 2)
  with pytest.raises(UserError, match='has no place in the larger model'):
    grow.grow(old, less, _table(13))
  deeper = _random(tiny.model(None, num_encoder_layers=2), 2)
  with pytest.raises(UserError, match='which has none; expected at least'):
    grow.grow(deeper, old, _table(7))


@pytest.mark.slow  # compiles the training steps of two models
def test_a_run_grows_from_a_run(tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  pretraining.began(tmp_path)
  small, _ = pretraining.ran(tmp_path, 'run', 'start')
  wide = 2 * mixtures.WIDTH
  text = (tmp_path / 'model.gin').read_text()
  larger = text.replace(f'EMBED_DIM = {mixtures.WIDTH}', f'EMBED_DIM = {wide}')
  (tmp_path / 'model.gin').write_text(larger)
  table = np.random.default_rng(7).normal(size=(mixtures.ROWS, wide))
  np.save(tmp_path / f'embedding_{wide}.npy', table.astype(np.float32))
  grow.main(
    [
      *('--model_dir', str(small.folder), f'--gin_file={tmp_path}/model.gin'),
      *('--embeddings', f'{tmp_path}/embedding_{wide}.npy'),
      *('--out', f'{tmp_path}/grown'),
    ]
  )
  source = archive.load(tmp_path / 'grown' / grow.SOURCE, 'grow')
  assert set(source) == {'prompts', 'kernels', 'words'}
  assert {x.shape[-1] for x in source.values()} == {wide}
  learned = ship.newest(ship.configured(small.folder))[1][
    'encoder/prompt/prompts'
  ]
  np.testing.assert_array_equal(source['prompts'][..., : wide // 2], learned)
  start = str(tmp_path / 'grown' / grow.SOURCE)
  large, _ = pretraining.ran(tmp_path, 'large', 'grown', start)
  again = ship.newest(ship.configured(large.folder))[1][
    'encoder/prompt/prompts'
  ]
  assert 0 < np.abs(again - source['prompts']).max() < 0.1  # went on from it
