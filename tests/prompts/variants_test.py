"""The choices that method files offer as macros: each traces, and trains."""

import pathlib

import gin
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import ginfiles, params, prompted, train
from prompt_jax.prompts.shared_and_task import COMBINE
from prompt_jax.training import ranking
from prompt_jax.training import state as states
from tests import miniature

_GIVEN = {
  'SOURCE_PROMPTS': "['mnli.npy', 'sst2.npy']",
  'NUM_TASKS': '2',
  'RANKED_LABELS': "['negative', 'positive']",
  'MIXTURE_OR_TASK_NAME': "'movie_sentiment'",
  'MODEL_DIR': "'/nowhere'",
  'TRAIN_STEPS': '5',
}
_EVERY = ('MIXTURE_OR_TASK_NAME', 'MODEL_DIR', 'TRAIN_STEPS')
_TARGETS = "[('encoder/prompt/targets/.*', 0.3)]"
_VARIANTS = [
  *[('shared_and_task', f'COMBINE={name!r}') for name in COMBINE],
  ('residual', 'NETWORK=@prompts.LSTM'),
  ('residual', 'NETWORK=@prompts.Transformer'),
  ('residual', 'SEPARATE=True'),
  ('residual', 'SKIP=False'),
  ('residual', 'prompts.MLP.passes=2'),
  ('attempt', "ATTENTION='token'"),
  ('attempt', f"ATTENTION='constant'; train.Run.table={_TARGETS}"),
  ('attempt_multi', 'prompts.Attempt.pool_padding=True'),
  ('attempt', 'prompts.Attempt.pool_padding=True'),
  ('per_layer', "DEEPER='add'"),
  ('perceptron', 'CRITERION=@ranking.softmax'),
]


def _parsed(method, *more):
  name = f'methods/{method}.gin'
  text = pathlib.Path(ginfiles.find(name)).read_text()
  needed = [k for k in _GIVEN if k in _EVERY or f'{k} = %gin' in text]
  given = [f'{k}={_GIVEN[k]}' for k in needed]
  files = ['models/mini.gin', name, 'runs/train.gin']
  ginfiles.parse(files, [*given, *more])


@pytest.mark.parametrize(
  'method, choice', _VARIANTS, ids=lambda each: each.replace('/', '-')
)
def test_variant_traces_and_its_table_fits(method, choice):
  _parsed(method, *choice.split('; '))
  model = gin.get_configurable(prompted.PromptEncoderDecoder)()
  shapes = states.abstract(model)[0]
  table = gin.query_parameter('train.Run.table')  # rates are macros yet
  trains = params.split(shapes, [(pattern, 1.0) for pattern, _ in table])[0]
  own = {path for path in shapes if path.split('/')[1] == 'prompt'}
  assert trains.keys() == {path for path in own if '/bank/' not in path}


def test_the_loss_of_a_run_is_chosen_in_gin(tmp_path):
  macros = miniature.write(tmp_path)
  command = miniature.command(
    tmp_path, ['methods/perceptron.gin'], macros, tmp_path / 'run'
  )
  run = miniature.configured(*command)
  assert isinstance(run, train.Run) and isinstance(run.loss, ranking.Ranking)
  assert run.loss.labels == ['good', 'bad']
  scores, right = jnp.array([[1.0, 2.0]]), jnp.array([[True, False]])
  got = run.loss.criterion(scores, right)
  np.testing.assert_allclose(got, [1.2], rtol=1e-6)  # margin 0.2
