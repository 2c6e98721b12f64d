"""Export of a finished run: prompts, and base and weights as one model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import cli, export, tuned
from prompt_jax.errors import UserError
from prompt_jax.session import Session
from prompt_jax.training.loop import Interruption
from prompt_jax.training.step import forward
from tests import tiny


def command(run, output, *more):
  return cli.main(
    ['export', f'--model_dir={run.model_dir}', f'--output={output}', *more]
  )


@pytest.mark.slow
def test_prompts_of_a_run(tmp_path, capsys):
  run, output = tiny.trained(), tmp_path / 'out'
  assert command(run, output) == 0
  assert capsys.readouterr().out.splitlines()[-1] == str(
    output / 'tiny_prompt.npy'
  )
  np.testing.assert_array_equal(
    np.load(output / 'tiny_prompt.npy'), np.load(run.prompt)
  )
  about = json.loads((output / 'tiny_prompt.json').read_text())
  old = json.loads(run.prompt.with_suffix('.json').read_text())
  assert {**about, 'metrics': old['metrics']} == old
  assert command(run, output) == 2
  assert f'{output} exists; expected a new folder' in capsys.readouterr().err
  assert command(run, tmp_path / 'new', '--step=3') == 2
  assert 'has the checkpoints [4]; expected 3' in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_model_says_what_the_run_says(tmp_path, capsys):
  run, output = tiny.trained('full'), tmp_path / 'whole'
  assert command(run, output, '--whole') == 0
  session = Session(run.configured(), Interruption())
  state, _ = session.restore()
  model = tuned.load(str(output), vocabulary='bytes')
  assert model.flat.keys() == state.trainable.keys()
  for path, leaf in state.trainable.items():
    np.testing.assert_array_equal(model.flat[path], leaf, err_msg=path)
  batch = tiny.batch()
  of = lambda model, flat: jax.jit(lambda f: forward(model, f, batch))(flat)
  here = jax.device_get(state.trainable)
  assert session.run.model.config == model.model.config
  np.testing.assert_array_equal(
    of(session.run.model, here), of(model.model, model.flat)
  )
  assert json.loads((output / 'config.json').read_text())['step'] == 4
  prompts = tmp_path / 'prompts'
  assert command(run, prompts) == 2
  assert 'This model has no prompt to export' in capsys.readouterr().err


def test_what_a_source_makes_of_each_task(tmp_path):
  model = tiny.model(2)
  flat = {'encoder/prompt/prompt': jnp.arange(14.0).reshape(2, 7)}
  paths = export.write_prompts(tmp_path, model, flat, ['a', 'b'], {'step': 3})
  assert paths == [str(tmp_path / 'a.npy'), str(tmp_path / 'b.npy')]
  for name in 'ab':
    np.testing.assert_array_equal(
      np.load(tmp_path / f'{name}.npy'), flat['encoder/prompt/prompt']
    )
  about = json.loads((tmp_path / 'b.json').read_text())
  norm = np.linalg.norm(np.arange(14.0).reshape(2, 7), axis=1).mean()
  assert about.pop('mean_row_norm') == pytest.approx(norm)
  place = dict(stack='encoder', depth=1, length=2, width=7)
  assert about == dict(step=3, task='b', **place)


def test_what_cannot_be_exported():
  assert not export.exportable(tiny.model(None)) and export.exportable(
    tiny.model()
  )
  with pytest.raises(UserError, match='This model has no prompt to export'):
    export.prompt_arrays(tiny.model(None), {}, ['a'])


def test_versions_name_every_package():
  assert export.versions().keys() == set(export.PACKAGES)
  assert export.versions()['jax'] == jax.__version__
