"""A pretraining run, and the folder that ships from it."""

import shutil

import jax
import numpy as np
import pytest

from launch.pretrain import ship, start
import prompt_jax
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.training import state as states
from prompt_jax.training.step import forward
from tests import tiny
from tests.launch import mixtures, pretraining


def test_scaling_keeps_the_logits():
  model = tiny.model(None, num_encoder_layers=2)
  flat = states.initial(model, jax.random.key(7), states.abstract(model)[0])
  scaled = ship.scaled(flat)
  logits = jax.jit(lambda flat: forward(model, flat, tiny.batch()))
  before, after = logits(flat), logits(scaled)
  assert np.std(before) > 0.1
  np.testing.assert_allclose(after, before, atol=1e-5)
  grown = {
    path for path in flat if not np.array_equal(flat[path], scaled[path])
  }
  sublayers = (
    *('encoder/layers_0/attention', 'encoder/layers_1/attention'),
    *('decoder/layers_0/self_attention',),
    *('decoder/layers_0/encoder_decoder_attention',),
  )
  mlps = ('encoder/layers_0', 'encoder/layers_1', 'decoder/layers_0')
  assert grown == {
    'token_embedder/embedding',
    *(f'{name}/out/kernel' for name in sublayers),
    *(f'{name}/mlp/wo/kernel' for name in mlps),
  }


def test_tied_logits_are_refused():
  model = tiny.model(None, tied_logits=True)
  with pytest.raises(UserError, match='no decoder/logits_dense/kernel'):
    ship.scaled(states.base_shapes(model))


def test_what_a_user_can_get_wrong(tmp_path):
  argv = ['--model_dir', str(tmp_path), '--out', str(tmp_path / 'out')]
  names = tmp_path / 'mixture.json'
  with pytest.raises(UserError, match='mixture.json is not there'):
    ship.main([*argv, '--mixture', str(names)])
  names.write_text('{"labelled": []}')
  with pytest.raises(UserError, match='config.gin is not there'):
    ship.main([*argv, '--mixture', str(names)])


@pytest.mark.slow  # compiles a training step for two shapes
def test_a_run_ships(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  pretraining.began(tmp_path)
  run, summary = pretraining.ran(tmp_path, 'run', 'start')
  assert summary['step'] == 2 and summary['trainable'] == summary['total']

  out, moved = tmp_path / 'shipped', run.folder.rename(tmp_path / 'moved')
  names = ['--mixture', f'{tmp_path}/mixture.json']
  ship.main(['--model_dir', str(moved), '--out', str(out), *names])
  assert 'step 2' in capsys.readouterr().out
  # of the labelled tasks only the one with real labels
  assert [f.name for f in (out / 'prompts').glob('*.npy')] == ['films.npy']
  prompt, about = saved.load(out / 'prompts' / 'films.npy')
  assert prompt.shape == (mixtures.PROTOTYPES, mixtures.WIDTH)
  assert about['step'] == 2 and about['base'] == 'shipped'

  # its own base is the one the prompt is accepted by
  model = prompt_jax.load(str(out), prompt=str(out / 'prompts' / 'films.npy'))
  scores = model.scores(['a warm film'], ['good', 'bad'])
  assert np.isfinite(scores).all()
  table = np.load(tmp_path / f'embedding_{mixtures.WIDTH}.npy')
  shipped = np.asarray(model.flat['token_embedder/embedding'], np.float32)
  change = np.abs(shipped / ship.SCALE - table)
  # two steps of 1e-3 at most, and what bfloat16 rounds
  assert change.max() < 2.1e-3 + np.abs(table).max() * 2**-8
  assert np.allclose(prompt.std(), ship.SCALE, rtol=0.5)

  shutil.rmtree(moved / 'checkpoints')
  with pytest.raises(UserError, match='moved has no checkpoint'):
    ship.main(['--model_dir', str(moved), '--out', str(out), *names])


def test_embeddings_of_another_model_are_refused(tmp_path):
  (tmp_path / 'model.gin').write_text(pretraining.MODEL)
  np.save(tmp_path / 'table.npy', np.zeros((11, 7), np.float32))
  argv = [f'--gin_file={tmp_path}/model.gin', '--out', f'{tmp_path}/start']
  with pytest.raises(UserError, match=r'is \[11, 7\]; expected .* \[8192, 7\]'):
    start.main([*argv, '--embeddings', f'{tmp_path}/table.npy'])
  with pytest.raises(UserError, match='lost.npy is not there'):
    start.main([*argv, '--embeddings', f'{tmp_path}/lost.npy'])
