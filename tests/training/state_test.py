"""What a run holds, and what it starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params
from prompt_jax.errors import UserError
from prompt_jax.t5 import pretrained
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from tests import tiny

PROMPT = 'encoder/prompt/prompt'
WI = 'encoder/layers_0/mlp/wi_0/kernel'


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A base on disk: (folder, {path: array})."""
  model = tiny.model(None)
  shapes, _ = states.abstract(model)
  flat = states.initial(model, jax.random.key(3), list(shapes))
  arrays = jax.device_get(flat)
  folder = tmp_path_factory.mktemp('base') / 'base'
  config = {'t5': pretrained.shapes_of(model.config)}
  pretrained.save(str(folder), arrays, config)
  return str(folder), arrays


def placed(model):
  shapes, axes = states.abstract(model)
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return sharding.shardings(mesh, axes, shapes)


def test_abstract_tells_shapes_and_axes_without_arrays():
  shapes, axes = states.abstract(tiny.model())
  assert shapes.keys() == axes.keys()
  assert shapes[PROMPT].shape == (3, 7)
  assert axes[PROMPT] == ('prompt', 'prompt_embed')
  assert shapes[WI].shape == (7, 11) and axes[WI] == ('embed', 'mlp')
  assert all(isinstance(x, jax.ShapeDtypeStruct) for x in shapes.values())


def test_base_shapes_leave_the_method_out():
  plain = states.base_shapes(tiny.model())
  whole, _ = states.abstract(tiny.model())
  assert whole.keys() - plain.keys() == {PROMPT}


def test_initial_values_depend_on_the_key_alone():
  model = tiny.model()
  one = states.initial(model, jax.random.key(5), [PROMPT])
  two = states.initial(model, jax.random.key(5), [PROMPT, WI])
  other = states.initial(model, jax.random.key(6), [PROMPT])
  assert list(one) == [PROMPT] and one[PROMPT].dtype == jnp.float32
  np.testing.assert_array_equal(one[PROMPT], two[PROMPT])
  assert (one[PROMPT] != other[PROMPT]).all()


def test_base_is_cast_where_it_is_frozen_and_its_digest_is_not(base):
  folder, arrays = base
  digests = set()
  for dtype in 'float32', 'bfloat16':
    model = tiny.model(None, activation_dtype=dtype)
    flat, digest = states.load_base(model, folder, {WI: None}, placed(model))
    digests.add(digest)
    assert flat.keys() == arrays.keys()
    assert flat[WI].dtype == jnp.float32
    for path in flat.keys() - {WI}:
      assert flat[path].dtype == jnp.dtype(dtype)
      np.testing.assert_array_equal(
        flat[path], arrays[path].astype(jnp.dtype(dtype))
      )
  assert digests == {params.digest(arrays)}


def test_digest_of_arrays_on_devices(base):
  _, arrays = base
  flat = {path: jnp.asarray(x) for path, x in arrays.items()}
  assert states.digest(flat) == params.digest(arrays)
  flat[WI] = flat[WI].at[1, 2].add(1e-6)
  assert states.digest(flat) != params.digest(arrays)


def test_base_of_another_size_is_refused(base):
  model = tiny.model(None, d_ff=13)
  with pytest.raises(UserError, match='The model size differs') as caught:
    states.load_base(model, base[0], {}, placed(model))
  assert 'MLP_DIM=11 (model: 13)' in str(caught.value)


def test_summary_counts_and_lists():
  shapes, _ = states.abstract(tiny.model())
  total = params.count(shapes)
  text = states.summary(shapes, {PROMPT: 0.3})
  assert text == (
    f'trainable 21 of {total:,} ({2100 / total:.3f} %)\n'
    '  encoder/prompt/prompt (3, 7) at rate 0.3\n'
    f'frozen    {total - 21:,} parameters'
  )
  assert f'  and {len(shapes) - 10} more' in states.summary(
    shapes, dict.fromkeys(shapes, 0.1)
  )
