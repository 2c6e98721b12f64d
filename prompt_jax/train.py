"""Trains what a gin configuration describes.

    python -m prompt_jax.train --gin_file=models/mini.gin \
      --gin_file=methods/prompt.gin --gin_file=runs/train.gin \
      --gin.MIXTURE_OR_TASK_NAME="'movie_sentiment'" \
      --gin.MODEL_DIR="'runs/first'"

Writes MODEL_DIR: checkpoints/, prompts/<step>/<task>.npy, config.gin,
metrics.jsonl, tensorboard/, eval/<step>/<task>.json and .jsonl.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
import time
from typing import Any

import jax

from prompt_jax import (
  batches,
  compile_cache,
  data,
  export,
  files,
  fit,
  ginfiles,
  startup,
  summary,
)
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved as inserts
from prompt_jax.ledger import Ledger
from prompt_jax.prompts import parts
from prompt_jax.session import Session, Shared
from prompt_jax.staged import Staged, shapes_of
from prompt_jax.stages import Schedule, Stage, check_model
from prompt_jax.startup import STARTUP
from prompt_jax.training import adafactor, loss, optim, sharding
from prompt_jax.training import state as states
from prompt_jax.training.loop import Loop, Plan
from prompt_jax.training.metrics import Log
from prompt_jax.training.progress import Progress
from prompt_jax.training.step import Program, train_step

# T5X counts steps from those of the base; every public T5 base has 0.5 to
# 1.2 million of them, so a larger TRAIN_STEPS was likely meant that way.
_T5X_STEPS = 500_000
_EVALUATED = ('full', 'stage')
STARTUP.imported()


@dataclasses.dataclass
class Run:
  """One training run; gin binds its fields, `train` carries it out.

  Args:
    model_dir: folder of everything the run writes.
    model: the linen model, such as `PromptEncoderDecoder`.
    dataset: training batches.
    table: ordered [(path pattern, learning rate)], see `params.split`.
    plan: when things happen.
    base: checkpoint of the frozen base; None initialises it at random.
    optimizer: see `training.optim`; None is T5X's Adafactor as prompt tuning
      runs it.
    schedule: step -> factor of the rates; None is constant.
    evaluations: evaluation sets; () evaluates nothing.
    eval_mode: 'rank' or 'generate'.
    evaluated: which models are, 'full' (the whole), 'stage' (the part that is
      trained on) or both; BEST_METRIC is the first's.
    stages: parts of the model that are trained on one after the other, see
      `stages`; by default the whole all along.
    scores_file: activation scores that stages choose units of MLPs by.
    class_labels: labels to rank; None takes each task's own.
    vocabulary: the vocabulary of the data, for the sidecar.
    loss: what a step minimises, see `training.loss.teacher_forced`.
    seed: of initialisation and dropout (the data has its own).
    z_loss, label_smoothing, loss_normalizing_factor: see `training.loss`.
    microbatches: parts a batch is cut into, to save memory.
    model_parallel: devices that share one copy of the base.
    data_parallel: copies of the base, which share a batch; None is as many as
      there are devices for.
    keep: newest checkpoints kept besides the best; None: all.
    position_budget: most positions of an encoder pass, prompt and input
      together; None is no limit (T5's positions are relative).
    allow_many_steps: accept a number of steps that looks like T5X's.
    allow_other_base: accept prompts of another base as initial values and in
      banks.
    seeds: asks for a run each, which `seeds.train_each` carries out; None is
      this run alone.
  """

  model_dir: str
  model: Any
  dataset: data.Dataset
  table: Sequence[tuple[str, float]]
  plan: Plan
  base: str | None = None
  optimizer: Any = None
  schedule: Callable | None = None
  evaluations: Sequence[data.EvaluationSet] = ()
  eval_mode: str = 'rank'
  evaluated: Sequence[str] = ('full',)
  stages: Sequence[Stage] = (Stage(),)
  scores_file: str | None = None
  class_labels: Sequence[str] | None = None
  vocabulary: str = 'shipped'
  loss: Callable = loss.teacher_forced
  seed: int = 0
  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  loss_normalizing_factor: Any = None
  microbatches: int = 1
  model_parallel: int = 1
  data_parallel: int | None = None
  keep: int | None = 1
  position_budget: int | None = None
  allow_many_steps: bool = False
  allow_other_base: bool = False
  seeds: Sequence[int] | None = None

  def __post_init__(self):
    axes = functools.cache(lambda: states.abstract(self.model)[1])
    self.optimizer = optim.informed(self.optimizer or prompt_adafactor(), axes)
    self.schedule = self.schedule or optim.schedule('constant')
    self.mesh = sharding.make_mesh(
      self.model_parallel, data_parallel=self.data_parallel
    )
    self.folder = pathlib.Path(self.model_dir).expanduser()

  @functools.cached_property
  def staging(self) -> Schedule:
    """The stages over the steps of the run, checked."""
    steps, config = self.plan.train_steps, self.model.config
    return Schedule(self.stages, steps, config, self.scores_file)

  # Everything the user can get wrong is checked here, before any array.
  def check(self) -> None:
    """Raises UserError for what can be known before the base is read."""
    if self.seeds is not None:
      raise UserError(
        f'SEEDS is {self.seeds!r}, but `train` carries out one run; expected '
        'None. `prompt-jax train` and seeds.train_each carry out one a seed.'
      )
    sharding.check_batch(self.mesh, self.dataset.batch_size, self.microbatches)
    self._check_stages()
    fit.check(self)
    steps = self.plan.train_steps
    if steps > _T5X_STEPS and not self.allow_many_steps:
      raise UserError(
        f'TRAIN_STEPS is {steps:,}, the steps of this run alone; T5X counts '
        'those of the base too, so a value from a T5X command is that much '
        f'too large. Use the difference (for a base of 1,100,000 steps: '
        f'--gin.TRAIN_STEPS={max(steps - 1_100_000, 1)}), or '
        '--gin.Run.allow_many_steps=True if you mean it.'
      )

  def _check_stages(self) -> None:
    check_model(self.model, self.table, self.staging)
    names = list(self.evaluated)
    if not names or len({*names} & {*_EVALUATED}) < len(names):
      raise UserError(
        f'EVAL_MODELS is {names}; expected one or both of '
        f'{", ".join(_EVALUATED)}, the one that BEST_METRIC is of first.'
      )
    parts = len(self.staging.cuts)
    if parts > 1 and names[0] == 'stage' and self.plan.best_metric is not None:
      raise UserError(
        f'BEST_METRIC would compare the scores of {parts} different parts of '
        "the model, for EVAL_MODELS begins with 'stage'; expected the whole "
        "model's. Use --gin.EVAL_MODELS=\"['full', 'stage']\", or leave "
        'BEST_METRIC out.'
      )

  def identity(self, rates: Mapping[str, float], digest: str) -> dict:
    """What two lives of one run must have in common."""
    return {
      'base_digest': digest,
      'trains': {path: float(rate) for path, rate in rates.items()},
      'sources': {
        stack: parts.described(source)
        for stack, source in export.sources(self.model).items()
      },
      'inserts': inserts.described(self.model.inserts),
      'stages': self.staging.described(),
      'data': self.dataset.fingerprint(),
      'seed': self.seed,
    }


def prompt_adafactor():
  """Adafactor as the release of Lester et al. runs it: no parameter scale,
  weight decay 1e-5 that the learning rate does not scale."""
  return adafactor.adafactor(
    multiply_by_parameter_scale=False, weight_decay_rate=1e-5
  )


def _program(session: Session, state, model=None) -> Program:
  """The compiled training step `(state, frozen, batch)` of a model.

  The state keeps its sharding, and its memory: it is donated.

  Args: `model` is a part of the run's; None is the whole.
  """
  run = session.run
  step = train_step(
    run.model if model is None else model,
    run.optimizer,
    session.rates,
    run.schedule,
    loss=run.loss,
    z_loss=run.z_loss,
    label_smoothing=run.label_smoothing,
    loss_normalizing_factor=_normalizing(run),
    microbatches=run.microbatches,
  )
  stays = jax.tree.map(lambda x: x.sharding, state)
  return Program(
    'the training step',
    step,
    donate_argnums=(0,),
    out_shardings=(stays, sharding.replicated(run.mesh)),
  )


def _normalizing(run: Run):
  """LOSS_NORMALIZING_FACTOR, the same for batches of all lengths."""
  if run.loss_normalizing_factor != 'NUM_TOTAL_TARGET_TOKENS':
    return run.loss_normalizing_factor
  data = run.dataset
  return float(data.batch_size * data.task_feature_lengths['targets'])


def train(run: Run, shared: Shared | None = None) -> dict[str, Any]:
  """Carries out a run, from its newest checkpoint if it has one.

  Args:
    run: the run; its plan is put into steps.
    shared: what runs with other seeds and folders have compiled; None: they
      are none, and this one has a store of compiled programs of its own.
  Returns: {step, steps, reason, best_step, best, train_seconds,
    steps_per_second, examples_per_second, padding_share, phases,
    compile_seconds, cost, trainable, total, base_digest} of this life, and
    {stages, saved} of the run, see `ledger.Ledger`. The pace in examples is
    of the steps alone, without evaluations; `phases` are seconds up to the
    first step. It is in MODEL_DIR/summary.json too.
  Raises: UserError for bad input, before anything is compiled.
  """
  STARTUP.again()
  run.check()
  if run.plan.counts_epochs:  # reads the data, so not where it need not
    run.plan = run.plan.in_steps(run.dataset.steps_per_epoch)
  if shared is None:
    shared = Shared()
    compile_cache.keep()
  compiled = shared.compile_seconds
  with shared.interruption:
    with STARTUP.phase('load'):
      session = Session(run, shared.interruption, shared.evaluators)
      state, best = session.restore()
    start, seconds, padded = int(state.step), 0.0, None
    ledger = Ledger(run, session.parts, start)
    owed = bool(run.evaluations) and best.evaluated < start
    if start >= run.plan.train_steps and not (start and owed):
      reason = 'done'
      print(
        f'nothing to do: {run.folder} is at step {start} and TRAIN_STEPS is '
        f'{run.plan.train_steps}'
      )
    else:
      files.write_text(run.folder / 'config.gin', ginfiles.operative())
      state, best, reason, seconds, padded = _carry_out(
        session, state, best, shared, ledger
      )
      session.check_frozen()
    session.checkpoints.close()
  steps = int(state.step) - start
  found = {
    **ledger.now,
    'step': int(state.step),
    'steps': steps,
    'reason': reason,
    'best_step': best.step,
    'best': best.value,
    'train_seconds': seconds,
    'steps_per_second': steps / max(seconds, 1e-9),
    'padding_share': padded,
    'compile_seconds': shared.compile_seconds - compiled,
    'cost': shared.cost(),
  }
  return summary.told(session, ledger, best, found)


def _carry_out(session: Session, state, best, shared: Shared, ledger: Ledger):
  """Compiles and loops; (state, best, reason, seconds, padding share)."""
  run, start = session.run, int(state.step)
  compiled = shared.compile_seconds

  def program(stage):
    model = session.parts.model(stage)
    if model.config not in shared.programs:
      shared.programs[model.config] = _program(session, places, model)
    return shared.programs[model.config]

  def save(state, *said):
    session.save(state, *said)
    ledger.settle(staged.rows, int(state.step))

  # the state itself is given away at the first step
  places = shapes_of(state)
  progress = Progress(run.plan.train_steps, start)
  with STARTUP.phase('data'):
    # data of another make need not say; its shapes are compiled as they come
    tell = getattr(run.dataset, 'shapes', lambda start, end: {})
    shapes = tell(start, run.plan.train_steps)
    coming = _batches(run, start)
    first = list(itertools.islice(coming, 1))  # none where steps are done
  staged = Staged(
    *(run.staging, session.parts, program, start, progress.say, shapes)
  )
  if first:
    with STARTUP.phase('compile'):
      cost = staged.begin(state, first[0]).cost()
    spent = shared.compile_seconds - compiled
    summary.say_start(run, cost, start, spent, [*shapes])
  log = Log(run.folder, start)
  loop = Loop(
    run.plan,
    startup.announced(staged, progress.say),
    staged.outside(session.evaluate),
    staged.outside(save),
    log,
    progress,
    shared.interruption,
  )
  if start == 0:
    session.export(state, {})  # the initial prompt, as the release keeps it
  began = time.monotonic()
  try:
    state, best, reason = loop.run(state, itertools.chain(first, coming), best)
  finally:
    staged.close()
    coming.close()
    progress.close()
    log.close()
  return state, best, reason, time.monotonic() - began, loop.padding_share


def _batches(run: Run, start: int):
  """Batches on the devices from a step on, made ahead in a thread."""
  host = itertools.islice(
    run.dataset.batches(start), run.plan.train_steps - start
  )
  mine = (jax.process_index(), jax.process_count())
  return batches.prefetch(
    sharding.put_batch(run.mesh, batches.rows(batch, *mine)) for batch in host
  )


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('train')
