"""A saved source: what is written is what is read, and what is refused."""

import functools
import json

import jax
import numpy as np
import pytest

from prompt_jax import export
from prompt_jax.errors import UserError
from prompt_jax.prompts import parts
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.initializers import uniform_paper
from prompt_jax.prompts.mlp import MLP
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.residual import Residual
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.training.step import forward
from tests.prompts.small_model import batch_of_two, flat_of, model_of
from tests.prompts.sources import apply, filled, inputs

P, H = 7, 13
Sources = functools.partial(Bank, ['a/mnli.npy', 'a/sst2.npy'], P)


def _attempt():
  inner = functools.partial(TaskPrompts, 2, P, init=uniform_paper())
  target = functools.partial(Residual, inner, functools.partial(MLP, 11))
  return Attempt(target, Sources, bottleneck=5)


@pytest.fixture
def stored(tmp_path):
  """(path, source, parameters, inputs) of a source in a file."""
  args, source = inputs(width=H), _attempt()
  flat = filled(source, *args)
  path = tmp_path / 'new' / 'encoder.npz'
  parts.save(path, source, flat, {'base_digest': 'abc'})
  return path, source, flat, args


def test_what_is_written_is_read(stored):
  path, source, flat, args = stored
  make, arrays, about = parts.load(path)
  assert about['base_digest'] == 'abc'
  assert arrays.keys() == flat.keys() == about['digests'].keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, flat[name])
  again = make()
  assert isinstance(again, Attempt) and again.names == source.names
  assert parts.described(again) == parts.described(source)
  np.testing.assert_array_equal(
    apply(again, arrays, *args), apply(source, flat, *args)
  )
  assert sorted(each.name for each in path.parent.iterdir()) == [
    'encoder.json',
    'encoder.npz',
  ]


def test_a_source_in_words():
  source = Attempt(None, Sources, temperature=3.0)
  about = parts.described(source)
  assert about['type'] == 'Attempt' and about['target'] is None
  assert about['temperature'] == 3.0
  assert about['sources'] == {
    'type': 'Bank',
    'paths': ['a/mnli.npy', 'a/sst2.npy'],
    'length': P,
    'axis': None,
  }


def test_parts_of_a_model(tmp_path):
  make = functools.partial(
    Attempt, functools.partial(TaskPrompts, 2, P), Sources, bottleneck=5
  )
  model = model_of(encoder_prompt=make)
  flat = flat_of(model)
  (written,) = export.write_parts(str(tmp_path), model, flat, {'step': 3})
  assert written == str(tmp_path / 'encoder.npz')
  made, arrays, about = parts.load(written)
  assert about['step'] == 3 and about['stack'] == 'encoder'
  again = model_of(encoder_prompt=made)
  own = {f'encoder/prompt/{name}': x for name, x in arrays.items()}
  assert own.keys() == {k for k in flat if k.startswith('encoder/prompt/')}
  batch = batch_of_two()
  np.testing.assert_array_equal(
    jax.jit(functools.partial(forward, again))({**flat, **own}, batch),
    jax.jit(functools.partial(forward, model))(flat, batch),
  )


def _says(path, **changes):
  sidecar = path.with_suffix('.json')
  about = json.loads(sidecar.read_text())
  about['source'].update(changes)
  sidecar.write_text(json.dumps(about))


def test_errors(stored, tmp_path):
  path, source, flat, _ = stored
  with pytest.raises(UserError, match='sidecar .json does not exist'):
    parts.load(tmp_path / 'none.npz')
  bad = {**flat, 'query/norm/bias': np.full(H, np.nan, np.float32)}
  with pytest.raises(UserError, match='query/norm/bias that are NaN'):
    parts.save(tmp_path / 'bad.npz', source, bad, {})
  with pytest.raises(UserError, match='int32 at rows; expected floats'):
    parts.save(tmp_path / 'bad.npz', Prompt(3), {'rows': np.ones(3, 'i4')}, {})
  _says(path, swirl=3)
  with pytest.raises(UserError, match=r"'Attempt' with \['swirl'\] unknown"):
    parts.load(path)
  _says(path, type='Attention')
  with pytest.raises(UserError, match="source 'Attention' with"):
    parts.load(path)
  path.write_bytes(b'PK torn')
  with pytest.raises(UserError, match='is not a readable source'):
    parts.load(path)
