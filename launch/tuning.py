"""A training run or an evaluation inside this process, without a shell.

    tuned = tune('mini', local.shipped('movie_sentiment'), 'runs/one',
                 {'TRAIN_STEPS': 300}, start='prompts/random_uniform.gin')
    tuned.metrics(), tuned.prompt()

Several runs in one process import TensorFlow once and, where their shapes and
settings agree, compile once.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import gin

from prompt_jax import eval as evaluation
from prompt_jax import ginfiles, heap, train
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import features, local

# Tokens of an input, EOS included; the shipped tasks hold short texts.
INPUTS = 64
# Input lengths of studies of many tasks: where all have the same ones, runs
# share compiled programs.
BUCKETS = [24, 40, INPUTS]
PROMPT = 'methods/prompt.gin'
TRAIN = 'runs/train.gin'
FULL = 'methods/full.gin'


def share_compiled(folder: str | os.PathLike) -> None:
  """One store of compiled programs, and one heap, unless the user has such."""
  import jax

  heap.keep()
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    where = str(pathlib.Path(folder).resolve() / 'compiled')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = where
    jax.config.update('jax_compilation_cache_dir', where)


def model_file(model: str) -> str:
  """The gin file of a model: a path as it is, else a name of gin/models."""
  return model if model.endswith('.gin') else f'models/{model}.gin'


def lengths(*tasks: local.FileTask) -> dict[str, int]:
  """{'inputs', 'targets'} in tokens: the targets hold the longest label."""
  longest = max(
    len(features.encoder(task.vocabulary)(text))
    for task in tasks
    for text in task.target_texts()
  )
  return {'inputs': INPUTS, 'targets': longest + 1}


def _parse(files, settings: Mapping[str, Any]) -> None:
  ginfiles.parse(files, [f'{name}={x}' for name, x in settings.items()])


def base(model: str) -> str:
  """The base that a model file names."""
  # a model file reads it, and run files, which are not needed here, give it
  _parse([model_file(model)], {'DROPOUT_RATE': 0.0})
  return gin.query_parameter('INITIAL_CHECKPOINT_PATH/gin.macro.value')


@dataclasses.dataclass(frozen=True)
class Tuned:
  """A finished run.

  Attributes:
    run: the `train.Run`. task: name of its task, of several the first.
    summary: what `train.train` returned.
  """

  run: train.Run
  task: str
  summary: Mapping[str, Any]

  def step(self) -> int:
    """The best step on the evaluation split, or the last where none is."""
    return self.summary['best_step'] or self.summary['step']

  def prompt(self) -> str:
    """The prompt file of that step."""
    folder = self.run.folder / 'prompts' / str(self.step())
    return str(folder / f'{self.task}.npy')

  def metrics(self, task: str | None = None) -> dict[str, Any]:
    """{metric: value} of that step on the evaluation split.

    Args: task is one of several that were trained on; None is the first.
    """
    folder = self.run.folder / 'eval' / str(self.step())
    return json.loads((folder / f'{task or self.task}.json').read_text())

  def figures(self, metric: str) -> dict[str, Any]:
    """What a row of results says of a run: metric, seconds, base."""
    return {
      metric: self.metrics()[metric],
      'seconds': round(self.summary['train_seconds'], 1),
      'base_digest': self.summary['base_digest'],
    }

  def predictions(self) -> list[dict[str, Any]]:
    """One row an example of that evaluation, {'target', 'scores', ...}."""
    folder = self.run.folder / 'eval' / str(self.step())
    lines = (folder / f'{self.task}.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def configured(
  model: str,
  task: local.FileTask | Sequence[local.FileTask],
  folder: str | os.PathLike,
  settings: Mapping[str, Any],
  method: str = PROMPT,
  start: str | None = None,
  split: str = 'validation',
  kind: str = TRAIN,
) -> train.Run:
  """A run that `train.train` carries out.

  Args:
    model: a name of gin/models or a gin file.
    task: what to train on, one or several at once; registered if need be.
    folder: MODEL_DIR.
    settings: {gin name: value}.
    method: its gin file.
    start: gin file of the prompt's initial value; None is the method's own.
    split: what is evaluated.
    kind: gin file of the run, such as runs/progressive.gin.
  """
  tasks = [task] if isinstance(task, local.FileTask) else [*task]
  for each in tasks:
    local.register(each)
  names = [each.name for each in tasks]
  files = [model_file(model), method, kind]
  values = {
    'TASK_FEATURE_LENGTHS': lengths(*tasks),
    **settings,
    'MIXTURE_OR_TASK_NAME': names if len(names) > 1 else names[0],
    'MODEL_DIR': str(folder),
    'evaluate.evaluation_sets.split': split,
  }
  _parse([*files, start] if start else files, values)
  return gin.get_configurable(train.Run)()


def tune(
  model: str,
  task: local.FileTask | Sequence[local.FileTask],
  folder: str | os.PathLike,
  settings: Mapping[str, Any],
  **options: Any,
) -> Tuned:
  """Trains one run, or goes on with it where it was interrupted.

  Args:
    model, task, folder, settings: as for `configured`.
    options: its method, start, split and kind.
  Raises: SystemExit if SIGTERM ended it: half a run is no result.
  """
  run = configured(model, task, folder, settings, **options)
  first = task if isinstance(task, local.FileTask) else task[0]
  summary = train.train(run)
  if summary['reason'] == 'SIGTERM':
    raise SystemExit(f'SIGTERM: the same command goes on with {run.folder}')
  return Tuned(run, first.name, summary)


def evaluate(
  model: str,
  task: local.FileTask,
  folder: str | os.PathLike,
  prompt: str | None = None,
  base: str | None = None,
) -> dict[str, float]:
  """Metrics of a base on the test split.

  Args:
    model, task: as for `tune`.
    folder: where results and predictions go.
    prompt: [P,H] .npy, or None.
    base: folder of the weights; None is the model's own.
  """
  local.register(task)
  values = {
    'TASK_FEATURE_LENGTHS': lengths(task),
    'MIXTURE_OR_TASK_NAME': task.name,
    'EVAL_OUTPUT_DIR': str(folder),
    'PROMPT_FILE': prompt,
  }
  if base is not None:
    values['INITIAL_CHECKPOINT_PATH'] = base
  _parse([model_file(model), 'runs/eval.gin'], values)
  configured = gin.get_configurable(evaluation.Evaluation)()
  return evaluation.evaluate(configured)[0].metrics


def weights(model: str) -> str:
  """Hex digest of a model's weight files: other weights, other results."""
  folder, found = (
    pathlib.Path(pretrained.resolve(base(model))),
    hashlib.sha256(),
  )
  for file in sorted(folder.rglob('*.safetensors')):
    found.update(file.read_bytes())
  return found.hexdigest()[:8]


def weight(base: str) -> int:
  """Bytes of a base on disk."""
  folder = pathlib.Path(pretrained.resolve(base))
  return sum(file.stat().st_size for file in folder.rglob('*.safetensors'))
