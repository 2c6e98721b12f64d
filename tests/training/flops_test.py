"""A step computes what its products need and no weight gradient of the base."""

import jax
import jax.numpy as jnp
import pytest

from prompt_jax import params
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.t5.config import T5Config
from prompt_jax.training import loss as losses
from prompt_jax.training import state as states
from prompt_jax.training.adafactor import adafactor
from prompt_jax.training.flops import step_flops
from prompt_jax.training.optim import adamw
from prompt_jax.training.step import forward, train_step
from tests.jaxprs import dots

B, T, U, P = 8, 48, 8, 20
SLACK = 1.05  # norms, softmax, loss and optimizer, which the count leaves out
PROMPT = 'encoder/prompt/prompt'
DTYPES = ('float32', 'bfloat16')
KINDS = {'t5_1_1': (('gelu', 'linear'), False), 't5_1_0': (('relu',), True)}


def _config(kind='t5_1_1', dtype='float32', remat='none'):
  """The proportions of T5 base, a third as wide."""
  activations, tied = KINDS[kind]
  return T5Config(
    vocab_size=1024,
    d_model=256,
    d_kv=64,
    d_ff=704,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activations=activations,
    tied_logits=tied,
    activation_dtype=dtype,
    remat=remat,
  )


def _shape(x, dtype=None):
  return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype)


def _step(config, table=((PROMPT, 0.3),), optimizer=None):
  """(step, state, frozen, batch): a function and shapes to trace it with."""
  model = PromptEncoderDecoder(config, encoder_prompt=lambda: Prompt(P))
  shapes, _ = states.abstract(model)
  trainable, frozen, rates = params.split(shapes, table)
  # as `state.load_base` keeps them
  frozen = {k: _shape(x, config.activation_dtype) for k, x in frozen.items()}
  optimizer = optimizer or adamw()
  state = states.State(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    trainable=trainable,
    opt_state=jax.eval_shape(optimizer.init, trainable),
    rng=jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
  )
  ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  batch = {
    'encoder_input_tokens': ints(B, T),
    'decoder_input_tokens': ints(B, U),
    'decoder_target_tokens': ints(B, U),
    'decoder_loss_weights': jax.ShapeDtypeStruct((B, U), jnp.float32),
    'task_ids': ints(B),
  }
  step = train_step(model, optimizer, rates, lambda _: jnp.float32(1))
  return step, state, frozen, batch


def _compiled(*args):
  step, *shapes = _step(*args)
  return float(jax.jit(step).lower(*shapes).compile().cost_analysis()['flops'])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', KINDS)
def test_flops_of_a_step(kind, dtype):
  config = _config(kind, dtype)
  needed = step_flops(config, B, T, U, P)
  share = _compiled(config) / needed
  assert 1 <= share <= SLACK, f'{share:.3f} of what is needed'


def test_training_the_base_costs_more():
  config = _config()
  assert _compiled(config, (('.*', 0.3),)) > 1.3 * step_flops(
    config, B, T, U, P
  )


@pytest.mark.parametrize('targets', [19, 2])
def test_count_of_a_model_by_hand(targets):
  config = T5Config(2, 3, 5, 7, 11, 1, 1, ('relu',), True)
  joined, seen = 55, 17 + 13
  projection = lambda rows: 2 * rows * 3 * joined
  mlp = lambda rows: 2 * 2 * rows * 3 * 7
  product = lambda rows, keys, each=joined: 2 * rows * keys * each
  encoder = 2 * (4 * projection(seen) + mlp(seen)) + 6 * product(seen, seen)
  own = 4 * projection(targets) + 2 * product(targets, targets)
  if targets == 2:  # kernels meet the queries, of width 3 for each of 11 heads
    cross = 6 * projection(targets)  # query and key kernel: forward only
    cross += 5 * product(targets, seen, 3 * 11)
  else:
    cross = 3 * projection(targets) + 4 * projection(seen)  # query: forward
    cross += 5 * product(targets, seen)  # scores 1 + 1, values 1 + 2
  logits = 2 * 2 * targets * 3 * 2
  total = encoder + own + cross + 2 * mlp(targets) + logits
  assert step_flops(config, 23, 17, targets, 13) == 23 * total


@pytest.mark.parametrize('dtype', DTYPES)
def test_only_trainable_leaves_have_a_gradient_and_a_state(dtype):
  step, state, frozen, batch = _step(_config(dtype=dtype))
  model = PromptEncoderDecoder(
    _config(dtype=dtype), encoder_prompt=lambda: Prompt(P)
  )

  def total(trainable, frozen, batch):
    logits = forward(model, params.merge(trainable, frozen), batch)
    return losses.loss(logits, batch)[0]

  jaxpr = jax.make_jaxpr(jax.grad(total))(state.trainable, frozen, batch)
  assert [x.aval.shape for x in jaxpr.jaxpr.outvars] == [(P, 256)]
  new, sums = jax.eval_shape(step, state, frozen, batch)
  assert list(new.trainable) == [PROMPT] and sums['bad'].shape == (1,)
  assert jax.tree.map(_shape, new) == jax.tree.map(_shape, state)


@pytest.mark.parametrize('make', [adamw, adafactor], ids=['adamw', 'adafactor'])
def test_optimizer_state_has_exactly_the_trainable_keys(make):
  _, state, frozen, _ = _step(_config(), ((PROMPT, 0.3),), make())
  tables = [x for x in state.opt_state if isinstance(x, dict) and x]
  assert tables and frozen
  assert all(table.keys() == {PROMPT} for table in tables)


def test_bfloat16_multiplies_nothing_in_float32():
  step, *shapes = _step(_config(dtype='bfloat16'))
  assert set(dots(step, *shapes)) == {('bfloat16', 'bfloat16', 'float32')}


def test_remat_computes_at_most_a_forward_more():
  share = _compiled(_config(remat='full')) / step_flops(_config(), B, T, U, P)
  assert 1.2 <= share <= 1.5, f'{share:.3f} of what is needed without'
