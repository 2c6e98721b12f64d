"""Cross-model transfer: a projector trained from one base to another.

By the loss of the target model, or by distance to its own prompts. Writes

    OUTPUT/projector.npz, .json     see `projector.save`
    OUTPUT/run/                     of training by task: an ordinary run

Source: Su et al. 2022, section 4.2. What it is worth: `projection`.
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.transfer import distance, grid
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.base import Base
from prompt_jax.transfer.projected import Projected
from prompt_jax.transfer.shelf import Shelf
from prompt_jax.transfer.uncorrected_adam import uncorrected_adam

TASK_RATE = 0.005  # written into the released code
_AT = 'encoder/prompt/projector/'


@dataclasses.dataclass(frozen=True)
class Training:
  """How a projector is trained by the task loss.

  Args:
    steps: updates. rate: constant.
    batch_size: rows of a step, all tasks together.
    eval_period: steps between evaluations; 0 is only at the end.
    seed: of the first weights and of the data.
    blind: trains on zeros for sources, see `Projected`.
    weight: of the distance, where that is in the loss too.
  """

  steps: int = 1000
  rate: float = TASK_RATE
  batch_size: int = 16
  eval_period: int = 0
  seed: int = 0
  blind: bool = False
  weight: float = 1.0

  def __post_init__(self):
    for name, value, least in (
      ('steps', self.steps, 0),
      ('train_batch_size', self.batch_size, 1),
      ('eval_period', self.eval_period, 0),
    ):
      if value < least:
        raise UserError(
          f'--{name} is {value}; expected a whole number, {least} or more.'
        )
    if not self.rate > 0:
      raise UserError(
        f'--rate is {self.rate}; expected a number above 0, such as '
        f'{TASK_RATE}.'
      )


def _saved(prompts: Shelf, folder: pathlib.Path) -> tuple[str, ...]:
  """The files of a shelf, written to a folder."""
  paths = []
  for name, prompt in zip(prompts.names, prompts.prompts, strict=True):
    paths.append(str(folder / f'{name}.npy'))
    saved.save(paths[-1], prompt, prompts.sidecars[prompts.index(name)])
  return tuple(paths)


def _run(base, source: Shelf, own, network, folder, training, settings):
  """The `train.Run` of a projector."""
  from prompt_jax import data, evaluate, train  # they import TensorFlow
  from prompt_jax.training.loop import Plan

  fields = {f.name: f for f in dataclasses.fields(Projected)}
  shared = {
    f.name: getattr(network, f.name)
    for f in dataclasses.fields(network)
    if f.name in fields and f.name not in ('parent', 'name')
  }
  make = functools.partial(
    Projected,
    _saved(source, folder / 'sources'),
    source.length,
    source.width,
    targets=None if own is None else _saved(own, folder / 'targets'),
    weight=training.weight,
    blind=training.blind,
    **shared,
  )
  dataset = data.Dataset(
    list(source.names),
    settings.lengths,
    batch_size=training.batch_size,
    seed=training.seed,
    module=settings.module,
    vocabulary=base.vocabulary,
  )
  most = settings.max_examples
  sets = evaluate.evaluation_sets(
    dataset,
    settings.split,
    settings.batch_size,
    most and -(-most // settings.batch_size),
  )
  labelled = all(each.labels for each in sets)
  ranked = labelled and settings.how != 'generate'
  return train.Run(
    str(folder / 'run'),
    PromptEncoderDecoder(base.config, encoder_prompt=make),
    dataset,
    [(f'{_AT}.*', training.rate)],
    Plan(training.steps, training.eval_period),
    base=pretrained.resolve(base.name),
    optimizer=uncorrected_adam(),
    evaluations=sets,
    eval_mode='rank' if ranked else 'generate',
    vocabulary=base.vocabulary,
    seed=training.seed,
  )


def train_by_task(
  base: Base,
  source: Shelf,
  network: projectors.Projector,
  output: str | os.PathLike,
  training: Training | None = None,
  settings: grid.Settings | None = None,
  own: Shelf | None = None,
) -> pathlib.Path:
  """Trains a projector by the loss of the target model.

  Every example takes the source prompt of its own task. The same command goes
  on where it was stopped.

  Args:
    base: the target, frozen.
    source: prompts of the source base, of the tasks to train on.
    network: of the target's width.
    output: folder to write.
    training, settings: how; the split of `settings` is that evaluated on. Of
      its ways to answer a run has two: 'first_token' ranks whole labels.
    own: prompts of the target base for these tasks: `training.weight` times
      the distance to them is added to the loss. None is the task loss alone.
  Returns: the projector.npz written.
  Raises: UserError for a projector of another width, or as `train.train`;
    SystemExit if SIGTERM ended it, for half a run is no projector.
  """
  from prompt_jax import train
  from prompt_jax.session import Session
  from prompt_jax.training.loop import Interruption

  check_width(network, base)
  training, folder = training or Training(), pathlib.Path(output).expanduser()
  settings = settings or grid.Settings()
  own = own and own.only(source.names)
  run = _run(base, source, own, network, folder, training, settings)
  summary = train.train(run)
  if summary['reason'] == 'SIGTERM':
    raise SystemExit(f'SIGTERM: the same command goes on with {folder}')
  with contextlib.redirect_stdout(io.StringIO()):  # said at the start
    state, _ = Session(run, Interruption()).restore()
  flat = {
    path.removeprefix(_AT): np.asarray(leaf)
    for path, leaf in state.trainable.items()
  }
  about = _about(base, source, 'both' if own else 'task', training)
  about |= {'trainable': summary['trainable'], 'total': summary['total']}
  path = folder / 'projector.npz'
  projectors.save(path, network, flat, about)
  return path


def train_by_distance(
  base: Base,
  source: Shelf,
  target: Shelf,
  network: projectors.Projector,
  output: str | os.PathLike,
  training: Training,
  allow_other_base: bool = False,
) -> tuple[pathlib.Path, list[float]]:
  """Trains a projector towards the target base's own prompts.

  Args:
    base: the target, which is not run.
    source, target: prompts of the same tasks on both bases.
    network, output, training: as for `train_by_task`.
    allow_other_base: accept targets that are prompts of another base.
  Returns: (the projector.npz written, the loss of every step).
  Raises: UserError as `distance.fit`, or for prompts of another base.
  """
  check_width(network, base)
  if training.blind:
    raise UserError(
      'Training by distance reads the sources, but was asked to be blind; '
      'expected one of them. Use --objective task with --blind.'
    )
  known = (base.digest, base.vocabulary_digest)
  target.check_base(*known, allow_other_base)
  flat, losses = distance.fit(
    network,
    source,
    target,
    training.steps,
    training.rate,
    training.batch_size,
    training.seed,
  )
  path = pathlib.Path(output).expanduser() / 'projector.npz'
  about = _about(base, source, 'distance', training)
  about |= {'loss': losses[-1] if losses else None}
  projectors.save(path, network, flat, about)
  return path, losses


def _about(base: Base, source: Shelf, objective: str, training) -> dict:
  """What the file of a projector says of it."""
  digests = {about.get('base_digest') for about in source.sidecars}
  return {
    'objective': objective,
    'tasks': list(source.names),
    'source_shape': [source.length, source.width],
    'source_base_digest': digests.pop() if len(digests) == 1 else None,
    'training': dataclasses.asdict(training),
    **base.sidecar(),
  }


def check_width(network: projectors.Projector, base: Base) -> None:
  """Raises UserError unless a projector makes prompts of the base's width."""
  if network.width != base.config.d_model:
    raise UserError(
      f'The projector makes prompts {[network.length, network.width]}; '
      f'expected [Q, {base.config.d_model}], as wide as the base {base.name}. '
      'Train one for this base: prompt-jax transfer project.'
    )
