"""The gin files: all parse, all combine, in any order, and nothing is idle."""

import copy
import functools
import itertools
import pathlib
import re

import gin
import jax
import numpy as np
import pytest

from prompt_jax import bindings, ginfiles, params, prompted, stages
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.training import state as states
from tests import miniature

_GIN = pathlib.Path(__file__).parents[1] / 'gin'
_FILES = sorted(
  path.relative_to(_GIN).as_posix() for path in _GIN.rglob('*.gin')
)
_METHODS = ginfiles.available('methods')
_MODELS = ginfiles.available('models')
_TRAIN = 'runs/train.gin'
# What a user has to say, as gin text, for every file that may ask.
_GIVEN = {
  'PROMPT_FILE': "'start.npy'",
  'MIXTURE_OR_TASK_NAME': "'movie_sentiment'",
  'MODEL_DIR': "'/nowhere'",
  'TRAIN_STEPS': '5',
  'EVAL_OUTPUT_DIR': "'/nowhere'",
  'INPUT_FILE': "'lines.txt'",
  'INFER_OUTPUT_FILE': "'said.jsonl'",
  'NUM_TASKS': '2',
  'SOURCE_PROMPTS': "['mnli.npy', 'sst2.npy']",
  'RANKED_LABELS': "['negative', 'positive']",
  'TASK_FILES': "{'train': 'train.tsv'}",
  'PROMPT_LENGTH': '3',
  'SCORES_DIR': "'/nowhere'",
}
_PARTS = ('runs/data.gin', 'runs/schedule.gin')  # what others include
_BESIDE = ('runs/own_file.gin',)  # given beside a run
_FROZEN = 'runs/frozen_prompt.gin'  # given beside a run and inserts
_OTHER_RUNS = [
  name
  for name in ginfiles.available('runs')
  if name not in (_TRAIN, _FROZEN, *_PARTS, *_BESIDE)
]


def _read(names):
  """Every binding of some files, includes followed."""
  found = []
  for name in names:
    path = ginfiles.find(str(name))
    found += bindings.read(path, bindings.Imports(), ginfiles.find)[0]
  return found


def _given(names) -> list[str]:
  """Bindings for the macros that the files leave open."""
  read = _read(names)
  asked = {each.name for each in read if each.is_required}
  asked -= {each.name for each in read if not each.is_required}
  unknown = asked - _GIVEN.keys()
  assert not unknown, f'{names} ask for {unknown}, which has no value here'
  return [f'{name}={_GIVEN[name]}' for name in sorted(asked)]


def _value(name):
  """What a macro or parameter is bound to, its macros resolved."""
  return copy.deepcopy(gin.query_parameter(name))  # gin resolves as it copies


def _lines(name):
  return (_GIN / name).read_text().splitlines()


@pytest.mark.parametrize(
  'name', [n for n in _FILES if not n.startswith('t5x/')]
)
def test_file_parses(name):
  assert _read([name]) or 'include' in (_GIN / name).read_text()


@pytest.mark.parametrize('name', _FILES)
def test_file_is_short(name):
  assert sum(bool(line.strip()) for line in _lines(name)) <= 40


@pytest.mark.parametrize('name', _METHODS)
def test_header_of_a_method(name):
  lines = _lines(name)
  header = list(itertools.takewhile(lambda line: line.startswith('#'), lines))
  assert re.search(r'\(.*(19|20)\d\d.*\)', ' '.join(header)), 'no paper'
  run = [line for line in header if line.startswith('# Run: ')]
  assert len(run) == 1 and f'--gin_file={name}' in run[0]
  assert any(line.startswith('# Expect: ') for line in header)
  for used in re.findall(r'--gin_file=(\S+)', run[0]):
    assert used in _FILES, f'{used} of the header does not exist'


def _includes(name):
  return re.findall(r'^include [\'"](.*)[\'"]', (_GIN / name).read_text(), re.M)


@pytest.mark.parametrize('name', _METHODS)
def test_methods_include_nothing(name):
  assert _includes(name) == []


@pytest.mark.parametrize('name', _MODELS)
def test_models_include_sizes_and_architectures_alone(name):
  for inner in _includes(name):
    if not inner.startswith('models/architectures/'):
      assert inner in _MODELS
      (beyond,) = _includes(inner)
      assert beyond.startswith('models/architectures/')


_BASES: dict = {}  # {config: shapes of the base}, by whatever method came first


@functools.cache
def _shapes(method, config):
  """Shapes of the model as gin has it; the key is all that it depends on."""
  made = gin.get_configurable(prompted.PromptEncoderDecoder)()
  assert made.config == config
  return states.abstract(made)[0]


def _pairs():
  """Every model with two methods, every method with a model of either kind.

  Slow where 48 layers have to be traced.
  """
  for model, method in itertools.product(_MODELS, _METHODS):
    common = method in ('methods/prompt.gin', 'methods/full.gin')
    if common or model in ('models/mini.gin', 'models/t5_small.gin'):
      deep = re.search(r'(large|xl|_3b|_11b)\.gin$', model)
      marks = [pytest.mark.slow] if deep else []
      yield pytest.param(model, method, marks=marks)


@pytest.mark.parametrize('model, method', _pairs())
def test_model_method_and_run_trace(model, method, monkeypatch):
  of = lambda path, shape=(17, 23): (np.zeros(shape, np.float32), None)
  monkeypatch.setattr(saved, 'load', of)  # PROMPT_FILE is as wide as the model
  files = [model, method, _TRAIN]
  given = _given(files)
  assert ginfiles.unread(files, given) == []
  ginfiles.parse(files, given)
  config = gin.get_configurable(prompted.PromptEncoderDecoder)().config
  shapes = _shapes(method, config)
  trains, frozen, rates = params.split(shapes, _value('train.Run.table'))
  assert params.count(trains) + params.count(frozen) == params.count(shapes)
  assert all(rate > 0 for rate in rates.values())
  # the base is the same, whatever the method adds
  added = [p for p in shapes if p.split('/')[1] == 'prompt' or '_insert' in p]
  base = {path: x for path, x in shapes.items() if path not in added}
  assert params.difference(_BASES.setdefault(config, base), base) == []


@pytest.mark.parametrize('run', _OTHER_RUNS)
@pytest.mark.parametrize('model', ['models/mini.gin', 'models/t5_11b.gin'])
def test_model_and_run_combine(model, run):
  files = [model, run]
  given = _given(files)
  assert ginfiles.unread(files, given) == []
  ginfiles.parse(files, given)


@pytest.mark.parametrize('run', [_TRAIN, 'runs/eval.gin'])
@pytest.mark.parametrize('beside', _BESIDE)
def test_what_is_given_beside_a_run(run, beside):
  method = ['methods/prompt.gin'] if run == _TRAIN else []
  files = ['models/mini.gin', *method, run, beside]
  given = _given(files)
  assert ginfiles.unread(files, given) == []
  ginfiles.parse(files, given)


_STAGES = {  # Huang et al. 2022, table 1: layers and units of T5 Large
  'ld': ([6, 12, 18], [None] * 3),
  'fr': ([None] * 3, [704, 1408, 2112]),
  'cr': ([6, 12, 18], [704, 1408, 2112]),
}


@pytest.mark.parametrize('kind', _STAGES)
def test_stages_of_the_paper(kind):
  run = f'runs/progressive_{kind}.gin'
  files = ['models/t5_1_1_lm100k_large.gin', 'methods/prompt.gin', run]
  given = [*_given(files), 'TRAIN_STEPS=30_000']
  assert ginfiles.unread(files, given) == []
  made = []
  for order in itertools.permutations(files):
    ginfiles.parse(order, given)
    made.append(gin.get_configurable(stages.growing)())
  assert len(set(made)) == 1
  *partial, last = made[0]
  assert last == stages.Stage(steps=12_000)
  for stage, layers, units in zip(partial, *_STAGES[kind], strict=True):
    assert stage == stages.Stage(layers, layers, units, units, 6000)


@pytest.mark.parametrize('method', ['lora', 'ia3', 'adapter_houlsby', 'bitfit'])
def test_a_frozen_prompt_beside_inserts(method):
  files = ['models/mini.gin', f'methods/{method}.gin', _TRAIN, _FROZEN]
  given = _given(files)
  assert ginfiles.unread(files, given) == []
  ginfiles.parse(files, given)


@pytest.mark.parametrize('method', _METHODS)
@pytest.mark.parametrize(
  'model', ['models/mini.gin', 'models/t5_1_1_lm100k_xxl.gin']
)
def test_any_order_of_the_files(model, method):
  said = set()
  for files in itertools.permutations([model, method, _TRAIN]):
    ginfiles.parse(files, _given(files))
    built = gin.get_configurable(prompted.PromptEncoderDecoder)()
    said.add((built.config, _without_imports(gin.config_str())))
  assert len(said) == 1


def _without_imports(text):
  """The bindings of a configuration; imports keep the order of the files."""
  lines = text.splitlines()
  return '\n'.join(
    line for line in lines if not line.startswith(('import ', 'from ', '#'))
  )


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  return folder, miniature.write(folder)


@pytest.mark.parametrize('prompt', ginfiles.available('prompts'))
@pytest.mark.parametrize('method', ['prompt', 'multitask'])
def test_initial_values(prompt, method, small):
  folder, macros = small
  files = [f'methods/{method}.gin', prompt]
  command = miniature.command(folder, files, macros, folder / 'run')
  assert ginfiles.unread(*command) == []
  run = miniature.configured(*command)
  shapes = states.abstract(run.model)[0]
  paths = params.split(shapes, run.table)[2]
  values = states.initial(run.model, jax.random.key(47), paths)
  for path, value in values.items():
    value = np.asarray(value)
    assert value.dtype == np.float32 and np.isfinite(value).all(), path
    assert np.unique(value).size > miniature.WIDTH, f'{path} is all alike'


# Lester et al. 2021: section 3.2 (length: 20 is nearly 100), section 3 (rate,
# batch, decay); the rest is in the released code.
_RECIPE = {
  'PROMPT_LENGTH/gin.macro.value': 20,
  'prompts.Prompt.length': 20,
  'train.Run.table': [('encoder/prompt/.*', 0.3)],
  'adafactor.adafactor.weight_decay_rate': 1e-5,
  'adafactor.adafactor.multiply_by_parameter_scale': False,
  'train.Run.z_loss': 1e-4,
  'data.Dataset.batch_size': 32,
}


@pytest.mark.parametrize('name', _RECIPE)
def test_recipe_of_the_paper(name):
  files = ['models/t5_1_1_lm100k_base.gin', 'methods/prompt.gin', _TRAIN]
  ginfiles.parse(files, _given(files))
  assert _value(name) == _RECIPE[name]


def test_a_macro_that_nothing_reads_is_seen(tmp_path):
  idle = tmp_path / 'idle.gin'
  idle.write_text('IDLE = 3\n')
  files = ['models/mini.gin', 'methods/prompt.gin', _TRAIN, str(idle)]
  assert ginfiles.unread(files, _given(files)) == ['IDLE']


def test_two_methods_do_not_combine():
  files = ['models/mini.gin', *_METHODS[:2], _TRAIN]
  with pytest.raises(UserError, match='is bound twice'):
    ginfiles.parse(files, _given(files))
