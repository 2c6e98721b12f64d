"""The training step as the TPU compiler makes it, without a TPU.

Compiled ahead of time for a topology, which takes libtpu and no device.
"""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest

from prompt_jax import params
from prompt_jax.training import optim
from prompt_jax.training import state as states
from prompt_jax.training.step import train_step
from tests import models

# no activation of a batch has one of the shapes of these kernels
SIZES = dict(
  vocab_size=640,
  d_model=256,
  d_kv=64,
  d_ff=512,
  num_heads=6,
  num_encoder_layers=1,
  num_decoder_layers=1,
  activation_dtype='bfloat16',
)


def _device(monkeypatch):
  """A device of a topology that is not here."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed, which compiles for TPUs')
  from jax.experimental import topologies

  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')  # asks the network otherwise
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')  # as it is there
  return topologies.get_topology_desc('v5e:2x2', 'tpu').devices[0]


def _compiled(device):
  """Text of the compiled step, and the shapes of the frozen kernels."""
  model = models.make('encoder', **SIZES)
  shapes = states.abstract(model)[0]
  trains, frozen, rates = params.split(shapes, [('.*/prompt/.*', 0.3)])
  optimizer = optim.sgd()

  def first(trainable):
    rng = jax.random.key_data(jax.random.key(0))
    step = jnp.zeros((), jnp.int32)
    return states.State(step, trainable, optimizer.init(trainable), rng)

  there = jax.sharding.SingleDeviceSharding(device)
  like = lambda x, dtype=None: jax.ShapeDtypeStruct(
    x.shape, dtype or x.dtype, sharding=there
  )
  state = jax.tree.map(like, jax.eval_shape(first, trains))
  base = {path: like(x, jnp.bfloat16) for path, x in frozen.items()}
  batch = {name: like(x) for name, x in models.batch().items()}
  step = train_step(model, optimizer, rates, lambda step: jnp.float32(1))
  text = jax.jit(step).lower(state, base, batch).compile().as_text()
  kernels = {x.shape for path, x in frozen.items() if path.endswith('kernel')}
  return text, kernels


def test_frozen_kernels_are_read_as_they_are(monkeypatch):
  text, kernels = _compiled(_device(monkeypatch))
  assert ' convolution(' in text  # what products become on a TPU
  for rows, columns in kernels:
    for shape in (f'{rows},{columns}', f'{columns},{rows}'):
      # neither a widened kernel nor the gradient of one
      assert f'= f32[{shape}]' not in text
      made = re.findall(rf'= bf16\[{shape}\]\S* ([\w-]+)\(', text)
      # a prefetch into fast memory is a copy-start and a copy-done
      assert not {'convert', 'copy', 'transpose'} & set(made)
