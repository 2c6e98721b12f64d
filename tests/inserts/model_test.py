"""Every insert in a model: what it adds, at step 0 and later."""

import jax
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.inserts import IA3, Adapter, Bias, LoRA, saved
from prompt_jax.training import loss as losses
from prompt_jax.training.state import abstract
from prompt_jax.training.step import forward
from tests import models

INSERTS = {
  'ia3': [('.*/(key|value|hidden)', IA3)],
  'bias': [('.*/(query|value|out|wi.*|wo)', Bias)],
  'lora': [('.*/(query|value)', LoRA)],
  'adapter': [('.*/(out|wo)', lambda **k: Adapter(bottleneck=2, **k))],
}
ONE = dict(num_encoder_layers=1, num_decoder_layers=1)  # of each, to be quick
every_insert = pytest.mark.parametrize('kind', INSERTS)


def random(flat, seed=3, size=0.3):
  """The parameters with noise on those of the inserts."""
  rng = np.random.default_rng(seed)
  return {
    path: x + size * rng.normal(size=x.shape).astype(np.float32)
    if path in saved.own(flat)
    else x
    for path, x in flat.items()
  }


@every_insert
def test_identity_at_first_and_not_later(kind):
  model = models.make('both', inserts=INSERTS[kind], **ONE)
  flat, rows = models.initial(model), models.batch()
  run, plain = models.compiled(model), model.clone(inserts=())
  bare = {path: flat[path] for path in abstract(plain)[0]}
  wanted = np.asarray(models.logits(plain, bare, rows))
  # an identity in between may change what the compiler fuses
  np.testing.assert_allclose(run(flat, rows), wanted, rtol=0, atol=2e-6)
  assert np.abs(np.asarray(run(random(flat), rows)) - wanted).max() > 1e-2


@every_insert
def test_only_inserts_have_a_gradient(kind):
  model = models.make(inserts=INSERTS[kind], **ONE)
  flat, rows = random(models.initial(model)), models.batch()
  trains, frozen, _ = params.split(flat, [('.*_insert/.*', 0.1)])
  assert trains.keys() == saved.own(flat).keys()
  assert frozen.keys() == abstract(models.make(**ONE))[0].keys()

  def total(trains):
    logits = forward(model, params.merge(trains, frozen), rows)
    return losses.loss(logits, rows)[0]

  gradients = jax.jit(jax.grad(total))(trains)
  for path, gradient in gradients.items():
    assert np.abs(np.asarray(gradient)).max() > 1e-6, path


@every_insert
def test_float32_and_beside_its_site(kind):
  model = models.make(inserts=INSERTS[kind], activation_dtype='bfloat16')
  shapes, axes = abstract(model)
  found = saved.own(shapes)
  assert {str(x.dtype) for x in found.values()} == {'float32'}
  assert all(len(x.shape) <= 2 for x in found.values())
  # whole on every device
  assert {name for path in found for name in axes[path]} == {None}
  sites = {path.rsplit('_insert/')[0] for path in found}
  last = {site.rsplit('/')[-1] for site in sites}
  wanted = {
    'ia3': {'key', 'value', 'hidden'},
    'bias': {'query', 'value', 'out', 'wi_0', 'wi_1', 'wo'},
    'lora': {'query', 'value'},
    'adapter': {'out', 'wo'},
  }
  assert last == wanted[kind]
  layers = models.ENCODER_LAYERS, models.DECODER_LAYERS
  attention = len(last - {'hidden', 'wi_0', 'wi_1', 'wo'})
  per_layer = [n * attention + len(last) - attention for n in (1, 2)]
  assert len(sites) == sum(np.multiply(layers, per_layer))


def test_a_pattern_that_meets_no_site():
  model = models.make(inserts=[('.*/attention/keys', IA3)])
  with pytest.raises(UserError, match='matches none of the .*Nearest: .*/key'):
    abstract(model)
