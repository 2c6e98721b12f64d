"""T5X trains our models: piece by piece here, whole in another process."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import Prompt, TaskPrompts, saved
from prompt_jax.t5 import t5x_checkpoint
from prompt_jax.t5.config import T5Config
from prompt_jax.training import adafactor
from tests.shared import fixtures, shared

REPOSITORY = pathlib.Path(__file__).parents[1]
TASK = 'colours_of_things'  # tests/t5x_task.py
LENGTH = 5
PROMPT = 'encoder/prompt/prompt'
BATCH_TIMES_LENGTH = 2048 * 114  # T5's pretraining, the stored divisor
LOSSES = {
  'loss_plain': {},
  'loss_z': {'z_loss': True},
  'loss_z_smooth': {'z_loss': True, 'label_smoothing': True},
  'loss_z_norm_const': {'z_loss': True, 'normalizing': BATCH_TIMES_LENGTH},
  'loss_z_norm_real': {'z_loss': True, 'normalizing': 'NUM_REAL_TARGET_TOKENS'},
  'loss_z_norm_total': {
    'z_loss': True,
    'normalizing': 'NUM_TOTAL_TARGET_TOKENS',
  },
  'loss_z_norm_seq': {'z_loss': True, 'normalizing': 'AVERAGE_PER_SEQUENCE'},
}


@pytest.fixture(scope='module')
def stack():
  """The folder of T5X's sources."""
  folder = shared('third_party') / 't5x_stack'
  needed = ('clu', 'grain', 'fiddle', 'seqio', 'tensorboard')
  lacking = [name for name in needed if not importlib.util.find_spec(name)]
  if lacking or not (folder / 't5x').is_dir():
    pytest.skip(f'T5X needs {folder / "t5x"} and packages: {lacking} lack')
  return folder


@pytest.fixture(scope='module')
def bridge(stack):
  """The module under test, imported with T5X on the path."""
  sys.path.append(str(stack))
  with warnings.catch_warnings():  # not ours
    warnings.simplefilter('ignore')
    from prompt_jax import t5x
  yield t5x
  sys.path.remove(str(stack))


def _environment(*folders):
  path = os.pathsep.join(map(str, (REPOSITORY, *folders)))
  return os.environ | {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}


def _config(sizes):
  return T5Config(
    vocab_size=sizes['vocab_size'],
    d_model=sizes['emb_dim'],
    d_kv=sizes['head_dim'],
    d_ff=sizes['mlp_dim'],
    num_heads=sizes['num_heads'],
    num_encoder_layers=sizes['num_encoder_layers'],
    num_decoder_layers=sizes['num_decoder_layers'],
    mlp_activations=tuple(sizes['mlp_activations']),
    tied_logits=sizes['logits_via_embedding'],
  )


def _stored(name):
  """(arrays, sizes, parameters as T5X holds them, batch) of the fixture."""
  folder = fixtures('t5_logits')
  stored = np.load(folder / f'{name}.npz')
  part = lambda prefix: {
    key.removeprefix(prefix): stored[key]
    for key in stored.files
    if key.startswith(prefix)
  }
  sizes = json.loads((folder / 'config.json').read_text())[name]
  tree = flax.core.freeze(params.unflatten(part('params/')))
  return stored, sizes, tree, part('batch/')


@pytest.mark.slow  # runs a model for each of seven losses
@pytest.mark.parametrize('name', ['t5_1_0', 't5_1_1'])
def test_losses_and_scores_are_those_of_t5x(bridge, name):
  stored, sizes, tree, batch = _stored(name)
  module = PromptEncoderDecoder(_config(sizes))
  for key, options in LOSSES.items():
    model = bridge.EncoderDecoderModel(
      module,
      None,
      None,
      None,
      z_loss=sizes['z_loss'] if 'z_loss' in options else 0.0,
      label_smoothing=sizes['label_smoothing_in_z_smooth']
      if 'label_smoothing' in options
      else 0.0,
      loss_normalizing_factor=options.get('normalizing'),
    )
    got, metrics = model.eval_fn(tree, batch)
    np.testing.assert_allclose(got, stored[f'out/{key}'], rtol=1e-5)
    assert metrics['loss'].compute() == got
    assert metrics['accuracy'].compute() == pytest.approx(
      float(stored['out/accuracy']), rel=1e-6
    )
  np.testing.assert_allclose(
    model.score_batch(tree, batch), stored['out/score_batch'], rtol=1e-5
  )


@pytest.mark.slow  # compiles a beam search
def test_decodes_with_one_beam_as_t5x_does(bridge):
  stored, sizes, tree, batch = _stored('t5_1_0')
  module = PromptEncoderDecoder(_config(sizes))
  model = bridge.EncoderDecoderModel(module, None, None, None)
  tokens, aux = jax.jit(model.predict_batch_with_aux)(
    tree, batch, jax.random.PRNGKey(0)
  )
  np.testing.assert_array_equal(tokens, stored['decode/beam1_tokens'][:, -1])
  np.testing.assert_allclose(
    aux['scores'], stored['decode/beam1_scores'][:, -1], atol=1e-4
  )


def _shapes_and_axes(model):
  """({path: shape}, {path: axis names}) of the variables of a T5X model."""
  features = ('encoder_input_tokens', 'decoder_input_tokens')
  variables = jax.eval_shape(
    lambda rng: model.get_initial_variables(
      rng, dict.fromkeys(features, (3, 7))
    ),
    jax.random.PRNGKey(0),
  )
  assert isinstance(variables, flax.core.FrozenDict)
  shapes = params.flatten(variables['params'])
  axes = params.flatten(variables['params_axes'])
  return (
    {path: leaf.shape for path, leaf in shapes.items()},
    {path: tuple(leaf.names) for path, leaf in axes.items()},
  )


@pytest.mark.parametrize('name', ['t5_1_0', 't5_1_1'])
def test_names_and_axes_are_those_of_t5x(bridge, name):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from t5x import models
    from t5x.examples.t5 import network
  _, sizes, _, _ = _stored(name)
  known = network.T5Config.__dataclass_fields__
  theirs = network.Transformer(
    network.T5Config(
      **{key: value for key, value in sizes.items() if key in known}
    )
  )
  ours = PromptEncoderDecoder(_config(sizes), encoder_prompt=lambda: Prompt(11))
  with jax.numpy_rank_promotion('allow'):  # T5X promotes
    want = _shapes_and_axes(
      models.EncoderDecoderModel(theirs, None, None, None)
    )
  got = _shapes_and_axes(bridge.EncoderDecoderModel(ours, None, None, None))
  assert got[0].pop(PROMPT) == (11, sizes['emb_dim'])
  assert got[1].pop(f'{PROMPT}_axes') == ('prompt', 'prompt_embed')
  assert got == want


@pytest.mark.parametrize('shape', [(5, 3), (131, 137)])
def test_optimizer_moves_as_t5x_would(bridge, shape):
  from flax import traverse_util
  from t5x import adafactor as theirs
  from t5x import optimizers

  rng = np.random.default_rng(0)
  settings = {'multiply_by_parameter_scale': False, 'weight_decay_rate': 1e-5}
  make = lambda **axes: adafactor.adafactor(**settings, **axes)
  chosen = traverse_util.ModelParamTraversal(
    lambda path, _: re.fullmatch('.*/prompt/.*', path)
  )
  tree = params.unflatten(
    {
      PROMPT: rng.normal(size=shape),
      'token_embedder/embedding': np.ones((7, 3)),
    }
  )
  tree = flax.core.freeze(jax.tree.map(jnp.float32, tree))
  axes = jax.tree.map(
    lambda _: jax.sharding.PartitionSpec('prompt', 'prompt_embed'), tree
  )
  moved = []
  for kind in (
    bridge.TableOptimizer([('encoder/prompt/.*', 0.5)], make),
    optimizers.MultiOptimizer([(chosen, theirs.Adafactor(**settings))]),
  ):
    kind.set_param_axes(axes)
    state = kind.create(tree)
    state = state.replace(state=state.state.replace(step=jnp.int32(1_100_000)))
    rate = 0.6 if not moved else 0.3  # the table halves ours
    for scale in (1.0, 3.0):
      grads = jax.tree.map(lambda x, s=scale: s * jnp.cos(x), tree)
      with jax.numpy_rank_promotion('allow'):  # T5X promotes
        state = state.apply_gradient(grads, learning_rate=rate)
    moved.append(state)
  ours, wanted = moved
  assert jax.tree.structure(ours.target) == jax.tree.structure(tree)
  assert int(ours.state.step) == 1_100_002
  for path, leaf in params.flatten(ours.target).items():
    np.testing.assert_allclose(
      leaf, params.flatten(wanted.target)[path], rtol=2e-6, atol=2e-6
    )
  states = params.flatten(ours.state.param_states)
  assert {path.rsplit('/', 1)[0] for path in states} == {PROMPT}
  named = ours.optimizer_def.derive_logical_axes(ours, axes)
  assert params.flatten(named.state.param_states).keys() == states.keys()


def test_what_t5x_cannot_say_is_refused(bridge):
  with pytest.raises(UserError, match='DatasetConfig.pack is True; expected'):
    bridge.FeatureConverter(pack=True)
  assert bridge.FeatureConverter(pack=False).pack is False
  module = PromptEncoderDecoder(
    T5Config(7, 3, 2, 5, 1, 1, 1), encoder_prompt=lambda: TaskPrompts(2, 3)
  )
  with pytest.raises(UserError, match='num_tasks=2; expected 1'):
    bridge.EncoderDecoderModel(module, None, None, None)


@pytest.mark.slow  # another process
def test_without_t5x_says_where_it_comes_from():
  code = (
    'import sys\nsys.modules["t5x"] = None\n'
    'import prompt_jax\nassert "seqio" not in sys.modules\n'
    'import prompt_jax.t5x'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=_environment(),
    capture_output=True,
    text=True,
  )
  assert 'UserError: prompt_jax.t5x got' in done.stderr
  assert 'no package registry' in done.stderr
  assert 'github.com/google-research/t5x' in done.stderr


MODEL = """
from __gin__ import dynamic_registration
from prompt_jax.t5 import config
include 'models/architectures/t5_1_1.gin'
NUM_EMBEDDINGS = 32128
EMBED_DIM = 4
MLP_DIM = 8
NUM_HEADS = 2
HEAD_DIM = 2
NUM_ENCODER_LAYERS = 2
NUM_DECODER_LAYERS = 2
config.T5Config.relpos_num_buckets = 4
config.T5Config.relpos_max_distance = 8
VOCABULARY = 'bytes'
ACTIVATION_DTYPE = 'float32'
"""


def _train(stack, folder, *flags):
  """Runs t5x.train on two devices; returns what it logged."""
  (folder / 'tiny.gin').write_text(MODEL)
  base = fixtures('t5x_tiny_checkpoint') / 'checkpoint_3'
  bindings = {
    'INITIAL_CHECKPOINT_PATH': f"'{base}'",
    'MODEL_DIR': f"'{folder / 'run'}'",
    'MIXTURE_OR_TASK_NAME': f"'{TASK}'",
    'MIXTURE_OR_TASK_MODULE': "'tests.t5x_task'",
    'TASK_FEATURE_LENGTHS': "{'inputs': 17, 'targets': 11}",
    'EVAL_PERIOD': 3,
    'EVAL_STEPS': 1,
    'BATCH_SIZE': 2,
    'PROMPT_LENGTH': LENGTH,
    'RANDOM_SEED': 0,
  }
  two = '--xla_force_host_platform_device_count=2'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 't5x.train'),
      f'--gin_search_paths={REPOSITORY / "gin"}',
      '--gin_file=t5x/finetune.gin',
      f'--gin_file={folder / "tiny.gin"}',
      '--gin_file=t5x/prompt.gin',
      *(f'--gin.{name}={value}' for name, value in bindings.items()),
      *flags,
    ],
    cwd=folder,
    env=_environment(stack) | {'XLA_FLAGS': two},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stderr


def _check_frozen(state):
  """The base of a checkpoint is bitwise that of the fixture."""
  base = fixtures('t5x_tiny_checkpoint') / 'checkpoint_3'
  compared = 0
  for key, array in t5x_checkpoint.read_state(str(base)).items():
    if key.startswith('target/'):
      assert state[key].dtype == array.dtype
      assert state[key].tobytes() == array.tobytes(), key
      compared += 1
  assert compared == 52


@pytest.mark.slow  # two runs of t5x.train
def test_t5x_trains_a_prompt_and_resumes(bridge, stack, tmp_path, capsys):
  said = _train(stack, tmp_path, '--gin.TRAIN_STEPS=6')
  losses = re.findall(r'collection=train .*?\bloss=([^,]+),', said)
  assert losses and np.isfinite([float(x) for x in losses]).all()
  run = tmp_path / 'run'
  state = t5x_checkpoint.read_state(str(run / 'checkpoint_6'))
  _check_frozen(state)
  assert state['state/step'] == 6
  slots = [key for key in state if key.startswith('state/param_states')]
  assert slots == [f'state/param_states/{PROMPT}/v']

  first, _ = saved.load(run / 'prompts' / '3' / f'{TASK}.npy', (LENGTH, 4))
  last, sidecar = saved.load(run / 'prompts' / '6' / f'{TASK}.npy', (LENGTH, 4))
  assert first.min() >= 0 and first.max() < 0.5  # the initialiser's range
  # three updates of RMS 0.3 at most
  assert 0.1 < np.sqrt(np.mean((last - first) ** 2)) < 0.91
  np.testing.assert_array_equal(last, state[f'target/{PROMPT}'])
  assert sidecar['step'] == 6 and sidecar['base'] == 'checkpoint_3'
  lines = (run / 'inference_eval' / f'{TASK}-metrics.jsonl').read_text()
  assert json.loads(lines.splitlines()[-1])['negative'] == 100

  output = tmp_path / 'out'
  flags = [f'--checkpoint={run / "checkpoint_6"}', f'--output={output}']
  assert bridge.main([*flags, '--task=colours']) == 0
  assert capsys.readouterr().out.strip() == str(output / 'colours.npy')
  again, sidecar = saved.load(output / 'colours.npy')
  np.testing.assert_array_equal(again, last)
  base = {
    key.removeprefix('target/'): array
    for key, array in state.items()
    if key.startswith('target/') and 'prompt' not in key
  }
  assert sidecar['base_digest'] == params.digest(base)

  # at rate 0 what was restored stays; moments go on from where they were
  _train(
    stack,
    tmp_path,
    '--gin.TRAIN_STEPS=8',
    '--gin.LEARNING_RATE=0.0',
    '--gin.train.train_eval_dataset_cfg=None',
    '--gin.train.infer_eval_dataset_cfg=None',
  )
  resumed = t5x_checkpoint.read_state(str(run / 'checkpoint_8'))
  _check_frozen(resumed)
  assert resumed['state/step'] == 8
  # weight decay 1e-5 a step, and T5X's least rate of 1e-8
  np.testing.assert_allclose(
    resumed[f'target/{PROMPT}'], last, rtol=3e-5, atol=1e-6
  )
  kept = (1 - 7**-0.8) * (1 - 8**-0.8)
  assert (resumed[slots[0]] >= 0.9999 * kept * state[slots[0]]).all()
