"""A method file without what it trained is no silent look at the base."""

import json

import gin
import pytest

from prompt_jax import ginfiles, infer, tuned
from prompt_jax.errors import UserError
from prompt_jax.export_run import export_run
from tests import tiny

_GIVEN = {
  'INPUT_FILE': 'rows.jsonl',
  'INFER_OUTPUT_FILE': 'said.jsonl',
}
# What the commands over saved files leave alone.
_WITHOUT = [
  f'prompt_jax.{name}'
  for name in (
    *('train', 'training', 'prompted', 'prompts', 'inserts'),
    'transfer',
  )
]


def _left(*methods):
  files = ['models/mini.gin', *methods, 'runs/infer.gin']
  said = [f'{name}={value}' for name, value in _GIVEN.items()]
  return ginfiles.parse(files, said, without=_WITHOUT)


@pytest.mark.parametrize('method', ginfiles.available('methods'))
def test_every_method_file_says_what_trains(method):
  left = _left(method)
  with pytest.raises(UserError, match='`prompt-jax infer` was given none of'):
    tuned.check_used('infer', left, 'mini', None, None)
  tuned.check_used('infer', left, 'mini', 'a.npy', None)
  tuned.check_used('infer', left, 'mini', {'one': 'a.npy'}, None)
  tuned.check_used('infer', left, 'mini', None, 'inserts.npz')


def test_the_base_by_itself_needs_no_method():
  left = _left()
  run = gin.get_configurable(infer.Inference)()
  assert (run.base, run.prompt_file, run.inserts_file) == ('mini', None, None)
  tuned.check_used('infer', left, run.base, run.prompt_file, run.inserts_file)


@pytest.mark.slow  # trains two steps of every parameter
def test_a_whole_model_is_what_was_trained(tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')
  done = tiny.trained('full')
  whole = tmp_path / 'whole'
  export_run(done.configured(), str(whole), None, True, 'float32')
  config = json.loads((whole / 'config.json').read_text())
  assert config['tuned_from'] == done.summary['base_digest']
  left = _left('methods/full.gin')
  tuned.check_used('eval', left, str(whole), None, None)
  with pytest.raises(UserError, match='is a base as it was before'):
    tuned.check_used('eval', left, tiny.base(), None, None)
