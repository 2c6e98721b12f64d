"""Parts of a model: what is kept, how it lies, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5.submodel import (
  STACKS,
  Stage,
  check_scores,
  cut,
  evenly,
  strongest,
  submodel,
)
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from tests import models

LAYERS = dict(num_encoder_layers=5, num_decoder_layers=3)
SMALL = Stage([0, 3, 4], 2, 7, 11)


def scores_of(config, seed=0):
  rng = np.random.default_rng(seed)
  depths = config.num_encoder_layers, config.num_decoder_layers
  return {
    stack: rng.random((depth, config.d_ff))
    for stack, depth in zip(STACKS, depths, strict=True)
  }


def arrays_of(model, seed=0):
  """Random parameters, without compiling an initialiser."""
  rng = np.random.default_rng(seed)
  shapes = states.abstract(model)[0]
  made = {p: rng.normal(size=x.shape) for p, x in shapes.items()}
  return {path: jnp.asarray(x, jnp.float32) for path, x in made.items()}


KINDS = {
  'gated': {},
  'relu': dict(mlp_activations=('relu',), tied_logits=True),
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_part_is_the_model_of_its_configuration(kind):
  model = models.make(**LAYERS, **KINDS[kind])
  flat, scores = arrays_of(model), scores_of(model.config)
  config, part = submodel(model.config, flat, SMALL, scores)
  assert (config.d_ff, config.decoder_d_ff) == (7, 11)
  shapes = states.abstract(model.clone(config=config))[0]
  assert params.difference(shapes, part) == []
  wi = 'wi_0' if kind == 'gated' else 'wi'
  for stack, layers in (('encoder', (0, 3, 4)), ('decoder', (0, 2))):
    for new, old in enumerate(layers):
      units = strongest(scores[stack][old], 7 if stack == 'encoder' else 11)
      here, there = f'{stack}/layers_{new}/', f'{stack}/layers_{old}/'
      whole = flat[f'{there}mlp/{wi}/kernel']
      np.testing.assert_array_equal(
        part[f'{here}mlp/{wi}/kernel'], whole[:, units]
      )
      np.testing.assert_array_equal(
        part[f'{here}mlp/wo/kernel'], flat[f'{there}mlp/wo/kernel'][units]
      )
      for path, leaf in part.items():
        if path.startswith(here) and 'mlp/' not in path:
          assert leaf is flat[path.replace(here, there)], path
  shared = [path for path in part if '/layers_' not in path]
  assert all(part[path] is flat[path] for path in shared) and len(shared) > 3
  logits = models.compiled(model.clone(config=config))(part, models.batch())
  assert np.isfinite(logits).all()


def test_the_whole_is_itself():
  model = models.make()
  flat = arrays_of(model)
  for stage in Stage(), Stage(2, 3, models.F, models.F):
    config, part = submodel(model.config, flat, stage, scores_of(model.config))
    assert config == model.config and part.keys() == flat.keys()
    assert all(part[path] is flat[path] for path in flat)
    assert cut(config, stage).is_whole


def test_what_is_not_of_a_layer_passes():
  config = models.config()
  odd = {'encoder/prompt/prompt': 1, 'token_embedder/embedding': 2}
  assert submodel(config, odd, Stage(1, 1))[1] == odd


def test_a_decoder_only_model():
  config = dataclasses.replace(models.config(), num_encoder_layers=0)
  kept = cut(config, Stage(decoder_layers=2))
  assert kept.layers == {'encoder': (), 'decoder': (0, 2)}
  assert str(kept) == f'decoder layers 0 2 x {models.F} units'


@pytest.mark.parametrize('kept, lies', [(6, 'model'), (7, None)])
def test_a_sharded_part_lies_as_the_whole_does(kept, lies):
  mesh = sharding.make_mesh(2, jax.devices()[:2])
  model = models.make(d_ff=14)
  shapes, axes = states.abstract(model)
  places = sharding.shardings(mesh, axes, shapes)
  flat = jax.device_put(arrays_of(model), places)
  scores, stage = scores_of(model.config), Stage(1, 2, kept, kept)
  part = submodel(model.config, flat, stage, scores)[1]
  kernel = part['encoder/layers_0/mlp/wi_0/kernel']
  assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, lies)
  whole = flat['encoder/layers_0/mlp/wi_0/kernel']
  np.testing.assert_array_equal(
    kernel, np.asarray(whole)[:, strongest(scores['encoder'][0], kept)]
  )
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), flat
  )
  shapes = submodel(model.config, like, stage, scores)[1]
  assert shapes.keys() == part.keys()
  for path, leaf in part.items():
    told = shapes[path]
    assert (told.shape, told.dtype) == (leaf.shape, leaf.dtype), path
    assert told.sharding.is_equivalent_to(leaf.sharding, leaf.ndim), path


def test_spread():
  assert evenly(24, 6) == (0, 4, 8, 13, 18, 23)
  assert evenly(5, 1) == (0,) and evenly(1, 1) == (0,)
  assert all(evenly(n, n) == tuple(range(n)) for n in range(1, 9))
  for total in range(2, 30):
    for kept in range(2, total + 1):
      layers = evenly(total, kept)
      assert (layers[0], layers[-1], len(layers)) == (0, total - 1, kept)
      assert set(np.diff(layers)) <= {layers[1], layers[1] + 1}


def test_of_equal_scores_the_first():
  scores = np.array([[3.0, 5, 5, 1, 5], [0, 0, 0, 0, 0]])
  wanted = [[1, 2, 4], [0, 1, 2]]
  np.testing.assert_array_equal(strongest(scores, 3), wanted)


REFUSED = {
  'deeper': (Stage(3), 'encoder_layers=3; expected a whole number from 1 to 2'),
  'wider': (Stage(decoder_mlp_dim=18), 'decoder_mlp_dim=18; expected a whole'),
  'none': (Stage(0), 'encoder_layers=0; expected'),
  'fraction': (Stage(0.5), 'encoder_layers=0.5; expected a whole number'),
  'not in order': (
    Stage(decoder_layers=[2, 0]),
    r'decoder_layers=\[2, 0\]; expected numbers from 0 to 2.*ascending',
  ),
  'twice': (Stage(decoder_layers=[1, 1]), 'each once'),
  'beyond': (Stage([0, 2]), r'encoder_layers=\[0, 2\]; expected numbers from'),
  'empty': (Stage([]), r'encoder_layers=\[\]; expected'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_stage_that_is_no_part_is_refused(case):
  stage, text = REFUSED[case]
  with pytest.raises(UserError, match=text):
    cut(models.config(), stage)


def test_scores_that_do_not_suffice():
  config = models.config()
  kept, scores = [cut(config, Stage(encoder_mlp_dim=5))], scores_of(config)
  check_scores(config, kept, scores, 'a.npz')
  check_scores(config, [cut(config, Stage(1))], None, 'a.npz')
  del scores['decoder']
  check_scores(config, kept, scores, 'a.npz')

  def fails(given, text):
    with pytest.raises(UserError, match=text):
      check_scores(config, kept, given, 'a.npz')

  fails(None, 'a.npz tells no scores to choose them by')
  fails({}, 'prompt-jax neurons')
  short = {'encoder': scores['encoder'][:1]}
  fails(short, r'\(1, 17\) scores of the encoder and none of layer 1; expected')
  fails({'encoder': scores['encoder'][:, :9]}, r'expected \(2, 17\)')
  fails({'encoder': scores['encoder'] * np.nan}, 'that are not finite')
