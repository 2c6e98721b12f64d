"""`PromptHub`: the calls of the released toolkit, over the functions here.

    hub = PromptHub('runs/hub')
    hub.train_prompt('mini', 'movie_sentiment')
    hub.eval_prompt('mini', 'movie_sentiment', 'movie_sentiment')
    hub.cross_task_eval('mini', 'movie_sentiment', 'tweet_sentiment')
    hub.cross_model_train('t5', 'mini', 'movie_sentiment')
    hub.activated_neuron('mini', 'movie_sentiment')

A prompt is given as a task (that was trained here, or added), a file, or an
array [P,H]. Prompts are kept in FOLDER/<model>/prompts/<task>.npy.
Source: Su et al. 2022, released code, version 2.0, its class of this name.
Departures: a source comes before a target everywhere; numbers are those of
the paper's own code, see the modules called.
"""

from collections.abc import Sequence
import functools
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.transfer import (
  base as bases,
)
from prompt_jax.transfer import (
  collapse,
  cross_model,
  cross_task,
  grid,
  heatmap,
  masked,
  masks,
  overlap,
  projection,
  shelf,
  stimulation,
)
from prompt_jax.transfer import projector as projectors

_USUAL = {  # rate: Lester et al. 2021; length and batch: Su et al. 2022
  'length': 100,
  'steps': 1000,
  'rate': 0.3,
  'batch_size': 16,
  'eval_period': 0,
  'seed': 0,
  'prompt': None,
}


class PromptHub:
  """Trains prompts and tries them elsewhere.

  Args:
    folder: of all that is written.
    settings: how tasks are read and answered.
    checkpoints: {name of a model: its base}; other names are bases.
    vocabulary: of all bases; None is that of each.
  """

  def __init__(
    self,
    folder: str | os.PathLike = 'outputs',
    settings: grid.Settings | None = None,
    checkpoints: dict[str, str] | None = None,
    vocabulary: str | None = None,
  ):
    self.folder = pathlib.Path(folder).expanduser()
    self.settings = settings or grid.Settings()
    self._checkpoints = dict(checkpoints or {})
    self._vocabulary = vocabulary
    self._bases: dict[str, bases.Base] = {}

  def base(self, model: str) -> bases.Base:
    """The base of a model, read once."""
    if model not in self._bases:
      where = self._checkpoints.get(model, model)
      self._bases[model] = bases.load(where, self._vocabulary)
    return self._bases[model]

  def prompts(self, model: str) -> pathlib.Path:
    """The folder of the prompts of a model."""
    return self.folder / pathlib.Path(model).name / 'prompts'

  def add_prompt(self, model: str, task: str, prompt: Any) -> pathlib.Path:
    """Keeps a prompt, a file or an array [P,H], as that of a task."""
    path = self.prompts(model) / f'{task}.npy'
    if isinstance(prompt, str | os.PathLike):
      array, about = saved.load(prompt)
    else:
      array, about = np.asarray(prompt, np.float32), {'task': task}
    saved.save(path, array, about or {'task': task})
    return path

  def train_prompt(self, model: str, task: Any, **options) -> pathlib.Path:
    """Tunes a prompt on a task, the base frozen; keeps the best by accuracy.

    Args:
      model: its base. task: a name, or a FileTask.
      options: `length` 100 rows, `steps` 1000, `rate` 0.3, `batch_size` 16,
        `eval_period` 0 (only at the end), `seed` 0, `prompt` to start from.
    Returns: the saved prompt.
    Raises: UserError as `train.train`, or for another option.
    """
    run, name = self._prompt_run(model, task, options)
    from prompt_jax import train

    summary = train.train(run)
    best = summary['best_step']
    step = summary['step'] if best is None else best
    made = run.folder / 'prompts' / str(step) / f'{name}.npy'
    kept = self.prompts(model) / made.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ('.json', '.npy'):  # the sidecar first, as they are saved
      shutil.copyfile(made.with_suffix(suffix), kept.with_suffix(suffix))
    return kept

  def _prompt_run(self, model: str, task: Any, options):
    """(the `train.Run` of a prompt, the name of its task)."""
    from prompt_jax import data, evaluate, train
    from prompt_jax.prompted import PromptEncoderDecoder
    from prompt_jax.prompts import Prompt, initializers
    from prompt_jax.t5 import pretrained
    from prompt_jax.training.loop import Plan

    _check_options(options)
    o = {**_USUAL, **options}
    base, init = self.base(model), None
    if o['prompt'] is not None:
      start = self._prompt(model, o['prompt']).prompts[0]
      o['length'], init = len(start), initializers.from_array(start)
    make = functools.partial(Prompt, o['length'], init)
    settings = self.settings
    dataset = data.Dataset(
      task,
      settings.lengths,
      batch_size=o['batch_size'],
      seed=o['seed'],
      module=settings.module,
      vocabulary=base.vocabulary,
    )
    sets = evaluate.evaluation_sets(
      dataset, settings.split, settings.batch_size
    )
    labelled = all(each.labels for each in sets)
    (name,) = dataset.tasks
    run = train.Run(
      str(self.folder / pathlib.Path(model).name / 'runs' / name),
      PromptEncoderDecoder(base.config, encoder_prompt=make),
      dataset,
      [('encoder/prompt/.*', o['rate'])],
      Plan(
        o['steps'],
        o['eval_period'],
        best_metric='accuracy' if labelled else None,
      ),
      base=pretrained.resolve(base.name),
      evaluations=sets,
      eval_mode='rank' if labelled else 'generate',
      vocabulary=base.vocabulary,
      seed=o['seed'],
    )
    return run, name

  def _prompt(self, model: str, prompt: Any) -> shelf.Shelf:
    """A prompt as a shelf of one: a task of this model, a file, an array."""
    if isinstance(prompt, str) and not prompt.endswith(('.npy', '.npz')):
      path = self.prompts(model) / f'{prompt}.npy'
      if not path.is_file():
        known = sorted(each.stem for each in path.parent.glob('*.npy'))
        raise UserError(
          f'There is no prompt of {prompt!r} for {model!r}; expected one of '
          f'{", ".join(known) or "none, so far"}. Train it (train_prompt), or '
          'add a file or an array (add_prompt).'
        )
      return shelf.read({prompt: path})
    if isinstance(prompt, str | os.PathLike):
      return shelf.read({pathlib.Path(prompt).stem: prompt})
    return shelf.of({'prompt': prompt})

  def eval_prompt(self, model: str, task: Any, prompt: Any = None) -> float:
    """The score of a prompt on a task, in percent.

    Args: prompt: None is that of the task.
    """
    own = getattr(task, 'name', task)  # a FileTask has one
    return self.cross_task_eval(model, own if prompt is None else prompt, task)

  def cross_task_eval(self, model: str, source: Any, target: Any) -> float:
    """The score of a source prompt on a target task, without training."""
    found = self._prompt(model, source)
    table = cross_task.evaluate(
      self.base(model), found, [target], None, self.settings
    )
    return float(table.scores[0, 0])

  def cross_model_train(
    self,
    source_model: str,
    target_model: str,
    task: str | Sequence[str],
    prompt: Any = None,
    projector: projectors.Projector | None = None,
    training: cross_model.Training | None = None,
  ) -> pathlib.Path:
    """Trains a projector by the task loss of the target model.

    Prints whether it has collapsed.

    Args:
      source_model, target_model: a prompt of the first is projected.
      task: to train on; several with their own prompts.
      prompt: of the source model, where there is one task; None is the task's.
      projector: None is the paper's, for prompts as long as the source's.
      training: see `cross_model.Training`.
    Returns: the projector.npz.
    """
    source = self._sources(source_model, task, prompt)
    target = self.base(target_model)
    projector = projector or projectors.Projector(
      source.length, target.config.d_model
    )
    where = self._projectors(source_model, target_model, source.names)
    path = cross_model.train_by_task(
      target, source, projector, where, training, self.settings
    )
    print('\n'.join(projection.look(path, target, source)), flush=True)
    return path

  def cross_model_eval(
    self,
    source_model: str,
    target_model: str,
    task: str | Sequence[str],
    prompt: Any = None,
    projector: str | os.PathLike | None = None,
  ) -> projection.Evaluated:
    """Evaluates a projector, and prints whether it has collapsed.

    Args: as `cross_model_train`; projector: None is the one trained on these
      tasks here.
    """
    source = self._sources(source_model, task, prompt)
    trained_here = self._projectors(source_model, target_model, source.names)
    path = projector or trained_here / 'projector.npz'
    target = self.base(target_model)
    found = projection.evaluate(
      path, target, source, source.names, None, self.settings
    )
    print('\n'.join(collapse.report(found.diagnostic)), flush=True)
    return found

  def _sources(self, model: str, task, prompt) -> shelf.Shelf:
    """The prompts of the source model, named for the tasks."""
    names = [task] if isinstance(task, str) else list(task)
    if prompt is not None:
      found = self._prompt(model, prompt)
      return shelf.of({names[0]: found.prompts[0]}, found.sidecars[0])
    return shelf.read({n: self.prompts(model) / f'{n}.npy' for n in names})

  def _projectors(self, source: str, target: str, tasks) -> pathlib.Path:
    name = f'{pathlib.Path(source).name}_to_{pathlib.Path(target).name}'
    return self.folder / 'projectors' / name / '_'.join(tasks)

  def activated_neuron(
    self,
    model: str,
    task: str,
    layers: Sequence[int] | None = None,
    prompt: Any = None,
    stack: str = 'decoder',
  ) -> tuple[np.ndarray, np.ndarray]:
    """What a prompt activates: (float32[L,F] raw, bool[L,F]).

    Args: layers: None is all; prompt: None is that of the task.
    """
    found = self._prompt(model, task if prompt is None else prompt)
    where = stimulation.Where(stack)
    raw = stimulation.record(self.base(model), found, where).after[0]
    raw = raw[overlap.chosen(len(raw), 'all' if layers is None else layers)]
    return raw, overlap.active(raw)

  def neuron_similarity(self, model: str, task1: str, task2: str) -> np.ndarray:
    """cos of the raw activations of two tasks, float64[L]."""
    raw = [self.activated_neuron(model, task)[0] for task in (task1, task2)]
    return overlap.raw_cosine(*raw)

  def mask_activated_neuron(
    self,
    model: str,
    task: str,
    layers: Sequence[int] | None = None,
    ratio: float = 0.2,
    prompt: Any = None,
    stack: str = 'decoder',
  ) -> tuple[float, np.ndarray]:
    """The score without the most active neurons: (percent, mask [L,F]).

    Args:
      model, task: scored.
      layers: where neurons are masked; None is all. Which are most active is
        decided over all layers together.
      ratio: share of the neurons of all layers.
      prompt: whose neurons, and whose score; None is that of the task.
      stack: 'decoder' or 'encoder'.
    Returns: the mask is 1 in layers that are not masked.
    Raises: UserError for a bad ratio, or a layer that is not there.
    """
    found = self._prompt(model, task if prompt is None else prompt)
    raw, _ = self.activated_neuron(model, task, prompt=prompt, stack=stack)
    mask = masks.within(masks.largest(raw, ratio), layers)
    each = grid.examples_of(task, self.base(model), self.settings)
    model_of = masked.Masked(self.base(model), found, stack)
    return model_of.score(each, 0, mask, self.settings), mask

  def plot_neuron(
    self, model: str, task: str, path: str | os.PathLike | None = None
  ) -> pathlib.Path:
    """Draws which neurons a task activates, layers down; the file."""
    where = self.folder / pathlib.Path(model).name / f'{task}_neurons.png'
    path = pathlib.Path(path or where)
    active = self.activated_neuron(model, task)[1]
    heatmap.draw_neurons(active, path, f'{task}, {model}')
    return path


def _check_options(options) -> None:
  """Raises unless all options are known."""
  odd = sorted(set(options) - set(_USUAL))
  if odd:
    raise UserError(
      f'train_prompt got {odd[0]!r}; expected options out of '
      f'{", ".join(_USUAL)}. For all others write a gin file: prompt-jax train.'
    )
