"""What every file of gin/methods owes, on a small model: see `checks`.

The methods are found by listing the folder. A new one whose macros have no
value yet fails here with the macro's name; `miniature.write` gives it one.
"""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from prompt_jax import ginfiles, train
from prompt_jax.session import Session
from prompt_jax.training.loop import Interruption
from tests import checks, miniature

_ROOT = pathlib.Path(__file__).parents[1]
_METHODS = ginfiles.available('methods')
every_method = pytest.mark.parametrize('method', _METHODS)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """`(method, run folder) -> command line` over one base for all."""
  folder = tmp_path_factory.mktemp('miniature')
  macros = miniature.write(folder)
  return lambda method, name: miniature.command(
    folder, [method], macros, folder / name / pathlib.Path(method).stem
  )


@pytest.fixture(scope='module')
def setups(made):
  """{method: Setup}, filled as the tests ask."""
  return {}


every_check = pytest.mark.parametrize(
  'check',
  [
    checks.check_traces,
    checks.check_compiles_once,
    checks.check_only_the_table_moves,
    checks.check_every_row_learns,
    checks.check_disk,
    checks.check_inserts,
    checks.check_export,
    checks.check_padding,
    checks.check_batch_order,
    checks.check_task_isolation,
    checks.check_resume,
    checks.check_loss_falls,
  ],
  ids=lambda check: check.__name__.removeprefix('check_'),
)


@every_method
@every_check
def test_contract(check, method, made, setups):
  if method not in setups:
    setups[method] = checks.Setup(*made(method, 'runs'))
  setups[method].parse()
  check(setups[method])


# the choices of a method file that make other modules
VARIANTS = {
  'concat': ('shared_and_task', "COMBINE='concat'"),
  'concat_features': ('shared_and_task', "COMBINE='concat_features'"),
  'project': ('shared_and_task', "COMBINE='project'"),
  'rank_one': ('shared_and_task', "COMBINE='rank_one'"),
  'two_passes': ('residual', 'prompts.MLP.passes=2'),
  'separate': ('residual', 'SEPARATE=True'),
  'lstm': ('residual', 'NETWORK=@prompts.LSTM'),
  'transformer': ('residual', 'NETWORK=@prompts.Transformer'),
  'token': ('attempt', "ATTENTION='token'"),
  'added': ('per_layer', "DEEPER='add'"),
}


@pytest.fixture(scope='module')
def varied(tmp_path_factory):
  """`variant -> Setup`, on a base of even width."""
  folder = tmp_path_factory.mktemp('variants')
  macros = miniature.write(folder, width=14)

  @functools.cache
  def setup(name):
    method, choice = VARIANTS[name]
    files, given = miniature.command(
      folder, [f'methods/{method}.gin'], macros, folder / name
    )
    return checks.Setup(files, [*given, choice])

  return setup


@pytest.mark.slow  # a step is compiled for each
@pytest.mark.parametrize('variant', VARIANTS)
@every_check
def test_contract_of_a_variant(check, variant, varied):
  varied(variant).parse()
  check(varied(variant))


@pytest.fixture(scope='module')
def decoder_only(tmp_path_factory):
  """A prompt on a base without an encoder."""
  folder = tmp_path_factory.mktemp('decoder_only')
  macros = miniature.write(folder, encoder_layers=0)
  files = ['methods/prompt_decoder.gin']
  command = miniature.command(folder, files, macros, folder / 'runs')
  return checks.Setup(*command)


@every_check
def test_contract_of_a_decoder_only_model(check, decoder_only):
  decoder_only.parse()
  check(decoder_only)


def test_data_order():
  checks.check_data_order(miniature.ordered)


@pytest.fixture(scope='module')
def resumed(made, tmp_path_factory):
  """Runs of 5 steps, and of 3 and, in a new process, 2 more.

  The copy of the run lacks its last checkpoint, as if it had been killed.
  """
  again = []
  for method in _METHODS:
    files, given = made(method, 'whole')
    run = miniature.configured(files, [*given, 'loop.Plan.checkpoint_period=3'])
    train.train(run)
    files, given = made(method, 'cut')
    cut = miniature.configured(files, given).folder
    shutil.copytree(run.folder, cut, ignore=shutil.ignore_patterns('compiled'))
    shutil.rmtree(cut / 'checkpoints' / '5')
    again.append([files, given])
  commands = tmp_path_factory.mktemp('resume') / 'commands.json'
  commands.write_text(json.dumps(again))
  done = subprocess.run(
    [sys.executable, '-m', 'tests.resume_runner', str(commands)],
    cwd=_ROOT,
    env=os.environ,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('going on at step 3') == len(_METHODS), done.stdout


@pytest.mark.slow  # trains every method twice, once in a process of its own
@every_method
def test_a_new_process_goes_on_bit_for_bit(method, made, resumed):
  states = []
  for name in ('whole', 'cut'):
    session = Session(miniature.configured(*made(method, name)), Interruption())
    assert max(session.checkpoints.steps()) == 5
    states.append(session.restore()[0])
  checks.check_same_state(*states)
