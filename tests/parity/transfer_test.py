"""The transfer kit against what the release of Su et al. 2022 computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.hf_checkpoint import hf_name
from prompt_jax.t5.t5 import T5
from prompt_jax.training import state as states
from prompt_jax.transfer import (
  answers,
  indicators,
  masks,
  overlap,
  shelf,
  stimulation,
)
from prompt_jax.transfer.base import Base
from tests.parity.transfer_arrays import TOLERANCE, names, part, stored

_THEIRS = {
  'EuclideanDistances': 'E_concat',
  'EuclideanDistances_per_token': 'E_average',
  'CosineSimilarity': 'C_concat',
  'CosineSimilarity_per_token': 'C_average',
}


def test_indicators():
  found = indicators.between(stored('indicators')['prompts'])
  assert set(_THEIRS) == stored('indicators').keys() - {'prompts'}
  for theirs, ours in _THEIRS.items():
    want = stored('indicators')[theirs]
    np.testing.assert_allclose(found[ours], want, **TOLERANCE, err_msg=theirs)


@pytest.mark.parametrize('kind', names('neurons', r'([^/]+)/activations'))
def test_overlap_of_neurons(kind):
  get = lambda key: stored('neurons')[f'{kind}/{key}']
  values = get('activations')
  values = values.reshape(*values.shape[:2], values.shape[-1])  # [S,L,F]
  kept, layers = values.copy(), values.shape[1]
  on = overlap.active(values)
  for first, want in zip(get('first_layer'), get('overlap'), strict=True):
    which = range(first, first + overlap.LAST) if first < layers else 'all'
    found = overlap.overlaps(on, which)
    np.testing.assert_allclose(found, want, **TOLERANCE)
  at = [n for n in get('first_layer') if n == layers - overlap.LAST]
  for want in get('overlap')[np.isin(get('first_layer'), at)]:  # by default
    np.testing.assert_allclose(overlap.overlaps(on), want, **TOLERANCE)
  np.testing.assert_array_equal(values, kept)


def hub_tasks():
  return names('neurons', r'hub/(task[^/]+)/')


@pytest.mark.parametrize('task', hub_tasks())
def test_neurons_of_version_two(task):
  get = lambda key: stored('neurons')[f'hub/{key}']
  before = get(f'{task}/before')
  made = [
    x[0, 0] @ get(f'layer{n}/kernel').T + get(f'layer{n}/bias')
    for n, x in enumerate(get(f'{task}/layer_input'))
  ]
  np.testing.assert_allclose(np.stack(made), before, **TOLERANCE)
  np.testing.assert_array_equal(overlap.active(before), get(f'{task}/after'))
  wanted = part('neurons', f'hub/{task}/mask_ratio_')
  assert wanted
  for ratio, want in wanted.items():
    np.testing.assert_array_equal(masks.largest(before, float(ratio)), want)


def test_similarity_of_version_two():
  one, other = (stored('neurons')[f'hub/{t}/before'] for t in hub_tasks())
  want = stored('neurons')['hub/neuron_similarity']
  np.testing.assert_allclose(overlap.raw_cosine(one, other), want, **TOLERANCE)


@functools.cache
def tiny_t5():
  """The golden T5 as a base, and its prompts."""
  get = stored('t5_neurons')
  v, d, k, f, layers, heads, relpos, _ = map(int, get['config'])
  config = T5Config(
    *(v, d, k, f, heads, layers, layers),
    mlp_activations=('relu',),
    tied_logits=True,
    relpos_num_buckets=relpos,
  )
  flat = {}
  for path in states.abstract(T5(config))[0]:
    name, transposed = hf_name(path)
    weight = get[f'weights/{name}']
    flat[path] = jnp.asarray(weight.T if transposed else weight)
  assert params.count(flat) == sum(
    x.size for key, x in get.items() if key.startswith('weights/')
  )
  prompts = get['prompts']
  found = shelf.of({f'task{i}': prompt for i, prompt in enumerate(prompts)})
  return Base('golden', config, flat, 'none', 'bytes'), found


def sentinel_of(ids, length):
  """The only token of the input, behind the prompt and before the pads."""
  rest = ids[0, length:]
  assert rest[0] > 0 and not rest[1:].any()
  return int(rest[0])


def test_stimulation_of_a_t5():
  base, found = tiny_t5()
  get = stored('t5_neurons')
  token = sentinel_of(get['input_ids'], found.length)
  assert token == base.config.vocab_size - 1
  heard = stimulation.record(base, found, token=token)
  want = get['activations'][:, :, 0, 0]
  np.testing.assert_allclose(heard.before, want, **TOLERANCE)
  np.testing.assert_allclose(heard.after, np.maximum(want, 0), **TOLERANCE)
  on = overlap.active(heard.after)
  clear = np.abs(want) > TOLERANCE['atol']  # of 0 and rounding nobody knows
  np.testing.assert_array_equal(on[clear], (want > 0)[clear])
  np.testing.assert_allclose(
    overlap.overlaps(np.where(clear, on, want > 0)),
    get['overlap_last3'],
    **TOLERANCE,
  )


def test_stimulation_with_pads_attended():
  base, found = tiny_t5()
  get = stored('t5_neurons')
  tokens = jnp.asarray(np.maximum(get['input_ids'][:, found.length :], 0))
  tokens = jnp.repeat(tokens, len(found), axis=0)
  probes = [(r'decoder/layers_\d+/mlp/wi', stimulation.Record)]
  model, flat = base.prompted(found, probes)

  def run(module, ids):
    seen = jnp.ones(tokens.shape, bool)  # the pads too, as it trains
    encoded = module.encoder(module.token_embedder(tokens), seen, ids)
    start = jnp.zeros((len(found), 1), jnp.int32)
    return module.decode(encoded, start, start + 1, ids)

  @jax.jit
  def heard(flat):
    variables = {'params': params.unflatten(flat)}
    ids = jnp.arange(len(found))
    return model.apply(variables, ids, method=run, mutable=['record'])[1]

  sites = stimulation.recorded(heard(flat))
  made = [
    sites[f'decoder/layers_{n}/mlp/wi'][:, 0]
    for n in range(base.config.num_decoder_layers)
  ]
  want = get['activations_pads_not_masked'][:, :, 0, 0]
  np.testing.assert_allclose(np.stack(made, axis=1), want, **TOLERANCE)


def test_first_step_of_a_t5():
  base, found = tiny_t5()
  get = stored('t5_neurons')
  assert get['lm_head_is_tied'].all()
  model, flat = base.prompted(found)
  tokens = jnp.asarray(np.maximum(get['input_ids'][:, found.length :], 0))
  batch = {'encoder_input_tokens': tokens, 'task_ids': jnp.zeros(1, jnp.int32)}
  every = jnp.arange(base.config.vocab_size)
  logits = np.asarray(jax.jit(answers.first_step(model))(flat, batch, every))
  want = get['first_step_logits']
  allowed = np.isfinite(want)
  assert not allowed[0, answers.EOS] and allowed.sum() == want.size - 1
  np.testing.assert_allclose(logits[allowed], want[allowed], **TOLERANCE)


@pytest.mark.parametrize(
  'task', names('zero_shot_score', r'([^/]+)/right_total')
)
def test_zero_shot_score(task):
  get = lambda key: stored('zero_shot_score')[f'{task}/{key}']
  tokens, label = get('label_token_ids'), get('label')
  rng = np.random.default_rng(0)
  scores = rng.normal(0, 0.01, (len(label), 32128)).astype(np.float32)
  scores[:, 100] = 9  # the likeliest token, which is no label
  scores[:, tokens] = get('scores_at_label_tokens')
  found = answers.restricted_argmax(jnp.asarray(scores), tokens)
  right = int((np.asarray(found) == label).sum())
  np.testing.assert_array_equal([right, len(label)], get('right_total'))
