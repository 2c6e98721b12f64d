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
import os
import pathlib
import time
from typing import Any

from absl import logging
import jax

from prompt_jax import batches as rows
from prompt_jax import data, export, files, ginfiles, params
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator, flat_metrics
from prompt_jax.t5 import pretrained
from prompt_jax.tasks import features
from prompt_jax.training import adafactor, optim, sharding
from prompt_jax.training import state as states
from prompt_jax.training.checkpoint import Checkpoints
from prompt_jax.training.loop import Best, Interruption, Loop, Plan
from prompt_jax.training.metrics import Log
from prompt_jax.training.progress import Progress
from prompt_jax.training.step import Program, train_step

# T5X counts steps from those of the base; every public T5 base has 0.5 to
# 1.2 million of them, so a larger TRAIN_STEPS was likely meant that way.
_T5X_STEPS = 500_000


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
    class_labels: labels to rank; None takes each task's own.
    vocabulary: the vocabulary of the data, for the sidecar.
    seed: of initialisation and dropout (the data has its own).
    z_loss, label_smoothing, loss_normalizing_factor: see `training.loss`.
    microbatches: parts a batch is cut into, to save memory.
    model_parallel: devices that share one copy of the base.
    keep: newest checkpoints kept besides the best.
    allow_many_steps: accept a number of steps that looks like T5X's.
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
  class_labels: Sequence[str] | None = None
  vocabulary: str = 'shipped'
  seed: int = 0
  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  loss_normalizing_factor: Any = None
  microbatches: int = 1
  model_parallel: int = 1
  keep: int = 1
  allow_many_steps: bool = False

  def __post_init__(self):
    self.optimizer = self.optimizer or prompt_adafactor()
    self.schedule = self.schedule or optim.schedule('constant')
    self.mesh = sharding.make_mesh(self.model_parallel)
    self.folder = pathlib.Path(self.model_dir).expanduser()

  # Everything the user can get wrong is checked here, before any array.
  def check(self) -> None:
    """Raises UserError for what can be known before the base is read."""
    sharding.check_batch(self.mesh, self.dataset.batch_size, self.microbatches)
    for source in export.sources(self.model).values():
      rows, tasks = source.num_tasks, self.dataset.tasks
      if not source.instance_wise and rows not in (1, len(tasks)):
        raise UserError(
          f'{type(source).__name__} has num_tasks={rows} but the data has '
          f'{len(tasks)} tasks ({", ".join(tasks[:5])}...); expected one '
          f'prompt a task. Use --gin.NUM_TASKS={len(tasks)}.'
        )
    steps = self.plan.train_steps
    if steps > _T5X_STEPS and not self.allow_many_steps:
      raise UserError(
        f'TRAIN_STEPS is {steps:,}, the steps of this run alone; T5X counts '
        'those of the base too, so a value from a T5X command is that much '
        f'too large. Use the difference (for a base of 1,100,000 steps: '
        f'--gin.TRAIN_STEPS={max(steps - 1_100_000, 1)}), or '
        '--gin.Run.allow_many_steps=True if you mean it.'
      )

  def identity(self, rates: Mapping[str, float], digest: str) -> dict:
    """What two lives of one run must have in common."""
    return {
      'base_digest': digest,
      'trains': {path: float(rate) for path, rate in rates.items()},
      'sources': {
        stack: type(source).__name__
        for stack, source in export.sources(self.model).items()
      },
      'inserts': [pattern for pattern, _ in self.model.inserts],
      'data': self.dataset.fingerprint(),
      'seed': self.seed,
    }


def prompt_adafactor():
  """Adafactor as the release of Lester et al. runs it: no parameter scale,
  weight decay 1e-5 that the learning rate does not scale."""
  return adafactor.adafactor(
    multiply_by_parameter_scale=False, weight_decay_rate=1e-5
  )


def _starting(run: Run):
  """Parameters at step 0: (trainable, frozen, rates, axes' shardings, digest)."""
  shapes, axes = states.abstract(run.model)
  trains, _, rates = params.split(shapes, run.table)
  places = sharding.shardings(run.mesh, axes, shapes)
  loaded, digest = {}, 'none'
  if run.base is not None:
    loaded, digest = states.load_base(run.model, run.base, trains, places)
  fresh = [path for path in shapes if path not in loaded]
  rng = jax.random.key(run.seed)
  flat = params.merge(loaded, states.initial(run.model, rng, fresh, places))
  dtype = run.model.config.activation_dtype
  frozen = {
    path: flat[path].astype(dtype) for path in flat if path not in rates
  }
  trainable = {path: flat[path] for path in rates}
  logging.info('%s', states.summary(shapes, rates))
  print(states.summary(shapes, rates), flush=True)
  return trainable, frozen, rates, digest


def _initial_state(run: Run, trainable) -> states.State:
  """The state before the first step, on the mesh."""
  whole = sharding.replicated(run.mesh)
  put = lambda tree: jax.tree.map(lambda x: jax.device_put(x, whole), tree)
  opt_state = run.optimizer.init(trainable)
  return states.State(
    step=put(jax.numpy.zeros((), jax.numpy.int32)),
    trainable=trainable,
    opt_state=put(opt_state),
    rng=put(jax.random.key_data(jax.random.key(run.seed))),
  )


def _check_same_run(identity: Mapping, found: Mapping, folder) -> None:
  """Raises UserError if a checkpoint belongs to another run."""
  old = found['identity']
  other = [key for key in identity if old.get(key) != identity[key]]
  if other:
    lines = '\n  '.join(
      f'{key}: there {old.get(key)}, here {identity[key]}' for key in other
    )
    raise UserError(
      f'{folder} holds a run of another method, base or data:\n  {lines}\n'
      'Expected the configuration it was started with. Give another '
      'MODEL_DIR, or delete this one.'
    )


def _compile_cache(folder: pathlib.Path) -> None:
  """Keeps compiled programs across processes, unless the user chose where."""
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(folder / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


class Session:
  """A run in progress: its state, and how it is evaluated and saved."""

  def __init__(self, run: Run, interruption: Interruption):
    self.run, self._interruption = run, interruption
    self.trainable, self.frozen, self.rates, self.digest = _starting(run)
    self.frozen_digest = params.digest(jax.device_get(self.frozen))
    self.identity = run.identity(self.rates, self.digest)
    self.checkpoints = Checkpoints(
      run.folder / 'checkpoints', run.keep, run.plan.best_metric
    )
    self.evaluator = None
    if run.evaluations:
      self.evaluator = Evaluator(
        run.model,
        run.evaluations,
        run.eval_mode,
        run.class_labels,
        put=functools.partial(sharding.put_batch, run.mesh),
        stop=lambda: interruption.requested,
      )

  def restore(self) -> tuple[states.State, Best]:
    """The state to go on from, and the best evaluation so far."""
    state = _initial_state(self.run, self.trainable)
    for step in reversed(self.checkpoints.steps()):
      # Another run's state has another shape, so its manifest comes first.
      try:
        manifest = self.checkpoints.manifest(step)
      except Exception:  # noqa: BLE001  unreadable: `restore` tells
        continue
      _check_same_run(self.identity, manifest, self.run.folder)
      break
    found = self.checkpoints.restore(state)
    if found is None:
      return state, Best()
    state, manifest = found
    return state, Best(**manifest['best'])

  def evaluate(self, state: states.State) -> dict[str, float]:
    """Metrics of the model as it stands; writes eval/<step>/."""
    if self.evaluator is None:
      return {}
    flat = params.merge(state.trainable, self.frozen)
    results = self.evaluator(flat)
    if results is None:
      return {}
    folder = self.run.folder / 'eval' / str(int(state.step))
    for result in results:
      where = {'split': result.split, 'examples': len(result.predictions)}
      files.write_json_lines(folder / f'{result.task}.jsonl', result.predictions)
      files.write_json(folder / f'{result.task}.json', {**result.metrics, **where})
    return flat_metrics(results)

  def save(self, state, metrics, best: Best) -> None:
    """Checkpoint first, then the prompts of the same step."""
    run = self.run
    manifest = {
      'identity': self.identity,
      'best': dataclasses.asdict(best),
      'base': str(run.base),
      'data_position': int(state.step),
      'config': ginfiles.operative(),
      'versions': export.versions(),
    }
    self.checkpoints.save(state, manifest, metrics)
    if not export.exportable(run.model) or jax.process_index() != 0:
      return
    sidecar = {
      'method': self.identity['sources'],
      'base': os.path.basename(str(run.base).rstrip('/')),
      'base_digest': self.digest,
      'vocabulary_digest': features.vocabulary_digest(run.vocabulary),
      'step': int(state.step),
      'metrics': dict(metrics or {}),
      'seed': run.seed,
      'versions': export.versions(),
    }
    folder = run.folder / 'prompts' / str(int(state.step))
    flat = params.merge(state.trainable, self.frozen)
    export.write_prompts(
      str(folder), run.model, flat, run.dataset.tasks, sidecar
    )

  def check_frozen(self) -> None:
    """Raises RuntimeError if the frozen base is not what it was."""
    now = params.digest(jax.device_get(self.frozen))
    if now != self.frozen_digest:
      raise RuntimeError(
        f'the frozen base changed: digest {self.frozen_digest} at the start, '
        f'{now} now; what was trained belongs to no base'
      )


def _program(session: Session) -> Program:
  """The compiled training step `(state, frozen, batch)`."""
  run = session.run
  step = train_step(
    run.model,
    run.optimizer,
    session.rates,
    run.schedule,
    z_loss=run.z_loss,
    label_smoothing=run.label_smoothing,
    loss_normalizing_factor=run.loss_normalizing_factor,
    microbatches=run.microbatches,
  )
  return Program('the training step', step, donate_argnums=(0,))


def train(run: Run) -> dict[str, Any]:
  """Carries out a run, from its newest checkpoint if it has one.

  Returns: {step, reason, best_step, best, steps_per_second, train_seconds,
    compile_seconds, trainable, total, cost} of this life of the run.
  Raises: UserError for bad input, before anything is compiled.
  """
  run.check()
  _compile_cache(run.folder)
  with Interruption() as interruption:
    session = Session(run, interruption)
    state, best = session.restore()
    start, plan = int(state.step), run.plan
    if start >= plan.train_steps:
      print(
        f'nothing to do: {run.folder} is at step {start} and TRAIN_STEPS is '
        f'{plan.train_steps}'
      )
      return {'step': start, 'reason': 'done', 'best_step': best.step}
    files.write_text(run.folder / 'config.gin', ginfiles.operative())
    program = _program(session)
    put = functools.partial(sharding.put_batch, run.mesh)
    program.compiled(state, session.frozen, put(_rows(run, start)))
    _say_start(run, program, start)
    log = Log(run.folder, start)
    progress = Progress(plan.train_steps, start)
    loop = Loop(
      plan,
      lambda state, batch: program(state, session.frozen, batch),
      session.evaluate,
      session.save,
      log,
      progress,
      interruption,
    )
    began = time.monotonic()
    batches = rows.prefetch(
      put(_rows(run, step)) for step in range(start, plan.train_steps)
    )
    try:
      state, best, reason = loop.run(state, batches, best)
    finally:
      batches.close()
      progress.close()
      log.close()
    session.check_frozen()
    session.checkpoints.close()
  return _summary(run, session, state, best, reason, start, program, began)


def _rows(run: Run, step: int):
  """This process's rows of the batch of a step."""
  batch = run.dataset.batch(step)
  return rows.rows(batch, jax.process_index(), jax.process_count())


def _say_start(run: Run, program: Program, start: int) -> None:
  cost = program.cost()
  epochs = run.plan.train_steps / run.dataset.steps_per_epoch
  print(
    f'{run.plan.train_steps:,} steps of {run.dataset.batch_size} examples = '
    f'{epochs:.1f} epochs of {run.dataset.num_examples:,} examples'
    + (f', going on at step {start}' if start else '')
    + f'\none step: {cost["flops"] / 1e9:.2f} GFLOP, '
    f'{cost["peak_bytes"] / 2**20:.0f} MiB, compiled in '
    f'{program.seconds:.1f} s',
    flush=True,
  )


def _summary(run, session, state, best, reason, start, program, began):
  seconds, step = time.monotonic() - began, int(state.step)
  if reason == 'SIGTERM':
    print(f'SIGTERM: saved step {step}; run the same command to go on')
  elif reason == 'patience':
    print(
      f'stopped at step {step}: {run.plan.best_metric} has not risen above '
      f'{best.value:.2f} (step {best.step}) for {run.plan.patience} evaluations'
    )
  return {
    'step': step,
    'reason': reason,
    'best_step': best.step,
    'best': best.value,
    'train_seconds': seconds,
    'steps_per_second': (step - start) / seconds,
    'compile_seconds': program.seconds,
    'trainable': params.count(state.trainable),
    'total': params.count(state.trainable) + params.count(session.frozen),
    'cost': program.cost(),
    'base_digest': session.digest,
  }


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('train')
