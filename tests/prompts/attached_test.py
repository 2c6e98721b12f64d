"""Saved prompts put back: the model says what the run said."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import export
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import (
  Attempt,
  Bank,
  Prompt,
  Residual,
  SharedAndTask,
  initializers,
  saved,
)
from prompt_jax.prompts.attached import attached, read_by
from prompt_jax.training.step import forward
from tests.prompts.small_model import H, batch_of_two, flat_of, model_of

_PLAIN = functools.partial(Prompt, 3)
_MODELS = {
  'encoder': {'encoder_prompt': _PLAIN},
  'decoder': {'decoder_prompt': _PLAIN},
  'both': {'encoder_prompt': _PLAIN, 'decoder_prompt': _PLAIN},
  'suffix': {'encoder_prompt': _PLAIN, 'where': 'after_eos'},
  'relations': {
    'encoder_prompt': _PLAIN,
    'attention': ('input->input', 'input->prompt', 'prompt->prompt;causal'),
  },
  'per layer': {
    'encoder_prompt': functools.partial(Prompt, 9),
    'encoder_depth': 3,
    'deeper': 'add',
  },
  'shared': {
    'encoder_prompt': functools.partial(SharedAndTask, 2, 5, 'rank_one')
  },
}


def written(model, flat, folder):
  files = export.write(str(folder), model, flat, ['a', 'b'], {'step': 13})
  return [file for file in files if 'b.' not in file.rsplit('/', 1)[1]]


def logits(given, base):
  model = model_of(**given.fields)
  flat = {path: x for path, x in base.items() if '/prompt/' not in path}
  flat |= {path: jnp.asarray(x) for path, x in given.own.items()}
  return np.asarray(forward(model, flat, batch_of_two()))


@pytest.mark.parametrize('name', _MODELS)
def test_logits_of_the_run(tmp_path, name):
  fields = dict(_MODELS[name])
  model = model_of(**fields)
  assert isinstance(model, PromptEncoderDecoder)
  flat = flat_of(model)
  expected = np.asarray(forward(model, flat, batch_of_two()))
  given = attached(written(model, flat, tmp_path), H)
  assert [each['step'] for each in given.sidecars] == [13] * len(given.sidecars)
  np.testing.assert_allclose(logits(given, flat), expected, atol=1e-5)


def test_a_source_that_reads_its_input(tmp_path):
  for name in 'abc':
    rows = np.random.default_rng(ord(name)).normal(size=(5, H))
    saved.save(str(tmp_path / f'{name}.npy'), rows, {})
  bank = functools.partial(
    Bank, [str(tmp_path / f'{name}.npy') for name in 'abc'], 5
  )
  source = functools.partial(
    Attempt, functools.partial(Prompt, 5), bank, bottleneck=2
  )
  model = model_of(encoder_prompt=source)
  flat = flat_of(model)
  expected = np.asarray(forward(model, flat, batch_of_two()))
  (file,) = written(model, flat, tmp_path / 'saved')
  assert file.endswith('encoder.npz')
  for name in 'abc':  # the file holds the bank
    (tmp_path / f'{name}.npy').unlink()
  given = attached(file, H)
  np.testing.assert_allclose(logits(given, flat), expected, atol=1e-5)


def test_two_of_one_stack(tmp_path):
  files = [str(tmp_path / f'{name}.npy') for name in 'ab']
  for file in files:
    saved.save(file, np.ones((2, H)), {})
  with pytest.raises(UserError, match='at most one of each of encoder, dec'):
    attached(files, H)
  with pytest.raises(UserError, match=r'expected \[2, 11\]'):
    attached(files[0], 11)


def test_a_bank_of_tasks(tmp_path):
  files = {}
  for i, name in enumerate('ab'):
    files[name] = [str(tmp_path / f'{name}{s}.npy') for s in ('', '.decoder')]
    saved.save(files[name][0], np.full((2, H), 3.0 + i), {'where': 'after_eos'})
    about = {'stack': 'decoder', 'depth': 2, 'where': 'after_eos'}
    saved.save(files[name][1], np.full((4, H), 5.0 + i), about)
  given = attached(files, H)
  assert given.tasks == ('a', 'b') and len(given.sidecars) == 4
  assert [str(file) for file in given.files] == [*files['a'], *files['b']]
  assert given.fields['where'] == 'after_eos'
  assert given.fields['decoder_depth'] == 2
  found = given.own['encoder/prompt/prompts']
  assert found.shape == (2, 2, H) and found[1, 1, 1] == 4
  assert given.own['decoder/prompt/prompts'].shape == (2, 4, H)
  source = given.fields['decoder_prompt']()
  assert (source.num_tasks, source.length) == (2, 4)


def test_banks_that_do_not_fit(tmp_path):
  for name, shape, about in (
    *(('a', (2, H), {}), ('long', (5, H), {}), ('wide', (2, H + 1), {})),
    ('behind', (2, H), {'where': 'after_eos'}),
  ):
    saved.save(str(tmp_path / f'{name}.npy'), np.ones(shape), about)
  good = str(tmp_path / 'a.npy')
  for name, text in (
    ('long', rf'long.npy of task .b. is encoder \[5, {H}\], but .*a.npy of'),
    ('behind', r'is encoder .*, where after_eos, but .* expected the prompts'),
    ('wide', rf'expected \[2, {H}\]'),
  ):
    with pytest.raises(UserError, match=text):
      attached({'a': good, 'b': str(tmp_path / f'{name}.npy')}, H)
  with pytest.raises(UserError, match='is an empty mapping; expected'):
    attached({}, H)
  with pytest.raises(UserError, match="None for task 'a'; expected one plain"):
    attached({'a': None}, H)


def test_the_files_that_a_source_reads():
  from_file = initializers.from_file('a.npy')
  labels = initializers.from_class_labels(np.ones((3, H)), list, ['x'])
  assert read_by(Prompt(3)) == []
  assert read_by(Prompt(3, from_file)) == ['a.npy']
  assert read_by(Prompt(3, labels)) == []
  several = initializers.from_files(['b.npy', 'c.npy'], 'concatenate')
  inner = functools.partial(Prompt, 3, several)
  assert read_by(Residual(inner)) == ['b.npy', 'c.npy']
  bank = functools.partial(Bank, ['d.npy', 'e.npy'], 3)
  text = initializers.from_string(np.ones((3, H)), list, 'x', from_file)
  target = functools.partial(Prompt, 3, text)
  assert sorted(read_by(Attempt(target, bank))) == ['a.npy', 'd.npy', 'e.npy']


def test_nothing_given():
  given = attached(None, H)
  assert not given.fields and not given.own and not given.sidecars
