"""Projectors against what the release of Su et al. 2022 computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.training import optim
from prompt_jax.transfer import (
  distance,
)
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.projector import Projector
from prompt_jax.transfer.uncorrected_adam import uncorrected_adam
from tests.parity.transfer_arrays import TOLERANCE, names, part, stored


def linear(weights, places):
  """Torch tensors under our names; {theirs: ours} says which."""
  flat = {}
  for theirs, ours in places.items():
    if f'{theirs}.weight' not in weights:
      continue
    weight, bias = weights[f'{theirs}.weight'], weights[f'{theirs}.bias']
    if weight.ndim == 2:
      flat[f'{ours}/kernel'] = jnp.asarray(weight.T)
    else:
      flat[f'{ours}/scale'] = jnp.asarray(weight)
    flat[f'{ours}/bias'] = jnp.asarray(bias)
  assert 2 * len(flat) >= len(weights)
  return flat


_PLACES = {'encoder': 'first', 'decoder': 'second', 'layer_norm': 'layer_norm'}
_ALONE = {'encoder': 'second'}  # of the class with a single layer
_HUB = {'0': 'first', '2': 'second'}
_KINDS = {  # class: (fields, the names of its layers)
  'AE_1_layer_mutiple_100': ({}, _PLACES),
  'AE_1_layer_mutiple_100_paper': ({'activation': 'tanh'}, _PLACES),
  'AE_1_layer': ({'norm': False}, _PLACES),
  'AE_0_layer': ({'norm': False, 'flat': False, 'hidden': None}, _ALONE),
}


def rows_of(name, x, y):
  """(x [S,P,Hs], y [S,Q,Ht]) of what a class takes and gives."""
  if x.ndim == 3:
    return x, y
  norm = f'{name}/param/layer_norm.weight'
  rows = (
    y.shape[1] // len(stored('projector')[norm])
    if norm in stored('projector')
    else 1
  )
  rows = rows if x.shape[1] % rows == 0 else 1
  return x.reshape(len(x), rows, -1), y.reshape(len(y), rows, -1)


def close_to_scale(got, want, name):
  """Within 1e-5, of the largest entry where that is above 1.

  Entries of a gradient are sums that cancel: those of the release are up to
  3e-5 from what float64 gives, so that not even exact ones would be within
  1e-5 of each small entry.
  """
  scale = max(1.0, float(np.abs(want).max()))
  np.testing.assert_allclose(
    got, want, rtol=1e-5, atol=1e-5 * scale, err_msg=name
  )


@pytest.mark.parametrize('name', _KINDS)
def test_projector_and_its_gradients(name):
  fields, places = _KINDS[name]
  get = functools.partial(stored('projector').__getitem__)
  x, y = rows_of(name, get(f'{name}/x'), get(f'{name}/y'))
  flat = linear(part('projector', f'{name}/param/'), places)
  hidden = (
    {'hidden': flat['first/bias'].shape[0]}
    if 'first' in {path.split('/')[0] for path in flat}
    else {}
  )
  module = Projector(*y.shape[1:], **{**hidden, **fields})
  made = projectors.initial(module, x.shape[1:])
  assert {p: v.shape for p, v in made.items()} == {
    p: v.shape for p, v in flat.items()
  }
  cotangent = get(f'{name}/cotangent').reshape(y.shape)

  def run(flat, x):
    out = module.apply({'params': params.unflatten(flat)}, x)
    return (out * cotangent).sum(), out

  grad = jax.jit(jax.grad(run, (0, 1), has_aux=True))
  (grads, grad_x), out = grad(flat, jnp.asarray(x))
  np.testing.assert_allclose(out, y, **TOLERANCE)
  wanted = linear(part('projector', f'{name}/grad/'), places)
  assert wanted.keys() == grads.keys()
  for path, want in wanted.items():
    close_to_scale(grads[path], want, path)
  want = get(f'{name}/grad_x')
  close_to_scale(grad_x.reshape(want.shape), want, 'x')


def exact(name):
  """{path or 'x': gradient} of a projector in float64, by our module."""
  fields, places = _KINDS[name]
  get = functools.partial(stored('projector').__getitem__)
  x, y = rows_of(name, get(f'{name}/x'), get(f'{name}/y'))
  with jax.enable_x64(True):
    weights = part('projector', f'{name}/param/').items()
    flat = linear({k: v.astype(np.float64) for k, v in weights}, places)
    if 'first/bias' in flat:
      fields = {**fields, 'hidden': flat['first/bias'].shape[0]}
    module = Projector(*y.shape[1:], **fields)
    cotangent = get(f'{name}/cotangent').reshape(y.shape).astype(np.float64)

    def run(flat, x):
      made = module.apply({'params': params.unflatten(flat)}, x)
      return (made * cotangent).sum()

    found = jax.grad(run, (0, 1))(flat, jnp.asarray(x, jnp.float64))
  assert found[1].dtype == np.float64
  return {**found[0], 'x': found[1]}


@pytest.mark.parametrize('name', _KINDS)
def test_gradients_in_float64(name):
  """To the tolerance of the file, entry by entry.

  Under a norm to that of the largest entry: a row that hardly varies makes its
  norm magnify each rounding of the release's own float32.
  """
  wanted = linear(part('projector', f'{name}/grad/'), _KINDS[name][1])
  wanted['x'] = stored('projector')[f'{name}/grad_x']
  found, normed = exact(name), 'layer_norm/scale' in wanted
  for path, want in wanted.items():
    got = np.asarray(found[path]).reshape(want.shape)
    if normed:
      close_to_scale(got, want, path)
    else:
      np.testing.assert_allclose(got, want, **TOLERANCE, err_msg=path)


def test_every_projector_of_the_release_is_met():
  found = names('projector', r'([^/]+)/param/')
  assert set(found) <= {*_KINDS, 'CrossModelProjector'}


def test_projector_of_version_two():
  get = lambda key: stored('projector')[f'CrossModelProjector/{key}']
  source, table, ids = (
    get('soft_embeds'),
    get('raw_embedding'),
    get('input_ids'),
  )
  flat = linear(part('projector', 'CrossModelProjector/param/'), _HUB)
  length, width = len(source), table.shape[1]
  module = Projector(
    length, width, hidden=flat['first/bias'].shape[0], norm=False
  )

  def run(flat):
    made = module.apply({'params': params.unflatten(flat)}, source[None])
    rows = jnp.broadcast_to(made, (len(ids), length, width))
    embeds = jnp.concatenate([rows, jnp.asarray(table)[ids]], axis=1)
    return (embeds * get('cotangent')).sum(), embeds

  grads, embeds = jax.jit(jax.grad(run, has_aux=True))(flat)
  np.testing.assert_allclose(embeds, get('inputs_embeds'), **TOLERANCE)
  ones = np.ones((len(ids), length), int)
  mask = np.concatenate([ones, get('attention_mask_in')], axis=1)
  np.testing.assert_array_equal(mask, get('attention_mask_out'))
  wanted = linear(part('projector', 'CrossModelProjector/grad/'), _HUB)
  for path, want in wanted.items():
    np.testing.assert_allclose(grads[path], want, **TOLERANCE, err_msg=path)


def test_distance():
  get = stored('distance').__getitem__
  source, target = get('source')[:, None], get('target')[:, None]
  flat = linear(part('distance', 'param_init/'), _PLACES)
  module = Projector(
    1,
    target.shape[2],
    hidden=flat['first/bias'].shape[0],
    activation='relu',
    norm=False,
  )
  index = get('task_index')
  first = (jnp.asarray(source[index[0]]), jnp.asarray(target[index[0]]))
  out = projectors.apply(module, flat, source[index[0]])
  np.testing.assert_allclose(out[:, 0], get('output_step0'), **TOLERANCE)
  grads = jax.grad(functools.partial(distance.loss, module))(flat, *first)
  for path, want in linear(part('distance', 'grad_step0/'), _PLACES).items():
    np.testing.assert_allclose(grads[path], want, **TOLERANCE, err_msg=path)
  optimizer = optim.adamw()
  run = distance.step(module, optimizer, distance.RATE)
  moments, losses = optimizer.init(flat), []
  for rows in index:
    flat, moments, value = run(flat, moments, source[rows], target[rows])
    losses.append(value)
  np.testing.assert_allclose(losses, get('loss'), **TOLERANCE)
  for path, want in linear(part('distance', 'param_final/'), _PLACES).items():
    np.testing.assert_allclose(flat[path], want, rtol=1e-5, atol=1e-6)


def test_task_tuning():
  get = stored('task_tuning').__getitem__
  flat = linear(part('task_tuning', 'param_init/'), _PLACES)
  readout = get('readout')
  width = len(readout)
  length = flat['second/bias'].shape[0] // width
  source = jnp.asarray(get('source').reshape(len(get('source')), length, -1))
  module = Projector(length, width, hidden=flat['first/bias'].shape[0])

  def objective(flat, rows, example, label):
    out = module.apply({'params': params.unflatten(flat)}, source[rows])
    seen = (jnp.tanh(out) * (1 + example[:, None])).mean(axis=1)
    scores = jax.nn.log_softmax(jnp.dot(seen, readout, precision='highest'))
    return -jnp.take_along_axis(scores, label[:, None], axis=1).mean()

  optimizer = uncorrected_adam()
  run, moments = jax.jit(jax.value_and_grad(objective)), optimizer.init(flat)
  rates = dict.fromkeys(flat, jnp.float32(0.005))  # the release's
  losses = []
  for s, rows in enumerate(get('task_index')):
    value, grads = run(flat, rows, get('example')[s], get('label')[s])
    updates, moments = optimizer.update(
      grads, moments, flat, learning_rate=rates
    )
    flat = optim.apply_updates(flat, updates)
    losses.append(value)
  np.testing.assert_allclose(losses, get('loss'), rtol=1e-5, atol=1e-5)
  for path, want in linear(
    part('task_tuning', 'param_final/'), _PLACES
  ).items():
    np.testing.assert_allclose(
      flat[path], want, rtol=1e-5, atol=3e-5, err_msg=path
    )
