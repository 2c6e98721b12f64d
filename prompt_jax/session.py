"""A run in progress: what it starts from, how it is evaluated and saved.

base + initialisers -> trainable | frozen -> state, or the newest checkpoint
"""

from collections.abc import Mapping
import dataclasses
import os

from absl import logging
import jax
import jax.numpy as jnp

from prompt_jax import export, files, ginfiles, params
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator, flat_metrics
from prompt_jax.inserts import saved as inserts
from prompt_jax.prompts import saved
from prompt_jax.prompts.attached import read_by
from prompt_jax.stages import Parts, check_model
from prompt_jax.t5 import quantized
from prompt_jax.t5.config import T5Config
from prompt_jax.tasks import features
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from prompt_jax.training.checkpoint import Checkpoints, named
from prompt_jax.training.loop import Best, Interruption
from prompt_jax.training.step import Program


def starting(run):
  """Parameters at step 0 of a `train.Run`, on its mesh.

  Returns: (trainable, frozen, {trainable path: rate}, digest of the base).
  Raises: UserError if base and model differ, or a prompt that the model starts
    from or mixes is of another base.
  """
  shapes, axes = states.abstract(run.model)
  trains, _, rates = params.split(shapes, run.table)
  config = run.model.config
  whole = all(cut.is_whole for cut in run.staging.cuts)
  quantized.check(config, trains, is_staged=not whole)
  places = sharding.shardings(run.mesh, axes, shapes)
  loaded, digest = {}, 'none'
  if run.base is not None:
    loaded, digest = states.load_base(run.model, run.base, trains, places)
  _check_prompts(run, digest)
  fresh = [path for path in shapes if path not in loaded]
  rng = jax.random.key(run.seed)
  flat = params.merge(loaded, states.initial(run.model, rng, fresh, places))
  # the base's dtype is not that of frozen prompts, which stay in float32
  base = loaded or states.base_shapes(run.model)
  frozen = {
    path: quantized.stored(path, leaf, config) if path in base else leaf
    for path, leaf in flat.items()
    if path not in rates
  }
  trainable = {path: flat[path] for path in rates}
  if jax.process_index() == 0:
    said = states.summary(shapes, rates)
    print(f'{said}\nproducts  in {config.activation_dtype}', flush=True)
  return trainable, frozen, rates, digest


def _check_prompts(run, digest: str) -> None:
  """Refuses initial values and banks of another base, stack or depth."""
  for stack, source in export.sources(run.model).items():
    depth = getattr(run.model, f'{stack}_depth')
    for path in read_by(source):
      about = saved.sidecar_of(path)
      if not run.allow_other_base:
        _check_place(about or {}, {'stack': stack, 'depth': depth}, path)
      saved.check_base(
        about,
        digest,
        features.vocabulary_digest(run.vocabulary),
        allow=run.allow_other_base,
        path=path,
      )


def _check_place(about: Mapping, here: Mapping, path) -> None:
  """Raises unless a sidecar names this place or none."""
  for key, wanted in here.items():
    if about.get(key, wanted) != wanted:
      raise UserError(
        f'{path} was saved with {key} {about[key]}, here it is {wanted}; '
        'expected a prompt that is used where it was trained. Give another '
        'file, or --gin.ALLOW_OTHER_BASE=True to try it all the same.'
      )


def initial_state(run, trainable) -> states.State:
  """The state before the first step."""
  whole = sharding.replicated(run.mesh)

  def beside(where, slot):
    # A moment of a sharded parameter is as large and lies with it.
    like = trainable.get(getattr(where[-1], 'key', None)) if where else None
    same = like is not None and like.shape == slot.shape
    return jax.device_put(slot, like.sharding if same else whole)

  return states.State(
    step=jax.device_put(jnp.zeros((), jnp.int32), whole),
    trainable=trainable,
    opt_state=jax.tree_util.tree_map_with_path(
      beside, run.optimizer.init(trainable)
    ),
    rng=jax.device_put(jax.random.key_data(jax.random.key(run.seed)), whole),
  )


def _unlike(old, new, limit: int = 3):
  """Both values; of two mappings only some entries that differ."""
  if not isinstance(new, Mapping):
    return old, new
  old = old if isinstance(old, Mapping) else {}
  keys = [k for k in {**old, **new} if old.get(k) != new.get(k)][:limit]
  return tuple({k: x[k] for k in keys if k in x} for x in (old, new))


def _shapes(run, trainable) -> dict[str, list[int]]:
  """{name: shape} of all that a checkpoint of the run holds."""
  opt_state = jax.eval_shape(run.optimizer.init, trainable)
  leaves, _ = named({'trainable': trainable, 'opt_state': opt_state})
  return {name: list(leaf.shape) for name, leaf in leaves.items()}


@dataclasses.dataclass
class Shared:
  """What runs share that differ in their seed and their folder alone.

  Attributes:
    interruption: SIGTERM stops all of them.
    programs: the compiled training step of each configuration, made when one
      needs it.
    evaluators: with their compiled programs, likewise.
  """

  interruption: Interruption = dataclasses.field(default_factory=Interruption)
  programs: dict[T5Config, Program] = dataclasses.field(default_factory=dict)
  evaluators: dict[T5Config, Evaluator] = dataclasses.field(
    default_factory=dict
  )

  @property
  def compile_seconds(self) -> float:
    """Seconds that compiling the steps has taken so far."""
    return sum(each.seconds for each in self.programs.values())

  def cost(self) -> dict[str, float]:
    """Figures of the newest step, see `Program.cost`; {} where none is."""
    ready = [p for p in self.programs.values() if p.compilations]
    return ready[-1].cost() if ready else {}


def check_same_run(identity: Mapping, manifest: Mapping, folder) -> None:
  """Raises UserError if a checkpoint belongs to another run."""
  old = manifest['identity']
  other = [key for key in identity if old.get(key) != identity[key]]
  if other:
    lines = '\n  '.join(
      f'{key}: there {there}, here {here}'
      for key in other
      for there, here in [_unlike(old.get(key), identity[key])]
    )
    raise UserError(
      f'{folder} holds a run of another method, base or data:\n  {lines}\n'
      'Expected the configuration it was started with. Give another '
      'MODEL_DIR, or delete this one.'
    )


class Session:
  """A run in progress.

  Args:
    run: the `train.Run`.
    interruption: ends an evaluation early.
    evaluators: of a run with the same model and evaluation sets, by
      configuration; filled as they are needed.

  Attributes:
    trainable, frozen: {path: array} at step 0.
    rates: {trainable path: learning rate}.
    digest: of the base as it is stored.
    parts: the models of the stages.
  """

  def __init__(
    self,
    run,
    interruption: Interruption,
    evaluators: dict[T5Config, Evaluator] | None = None,
  ):
    self.run, self._interruption = run, interruption
    check_model(run.model, run.table, run.staging)
    self.trainable, self.frozen, self.rates, self.digest = starting(run)
    self._frozen_digest = self._digest_now()
    self._check_scores()
    self.parts = Parts(run.model, self.frozen, run.staging)
    self.identity = {
      **run.identity(self.rates, self.digest),
      'state': _shapes(run, self.trainable),
    }
    self.checkpoints = Checkpoints(run.folder / 'checkpoints', run.keep)
    self.evaluators = {} if evaluators is None else evaluators
    self.method = {
      stack: type(source).__name__
      for stack, source in export.sources(run.model).items()
    }
    if run.evaluations:  # what is wrong with them is told at the start
      self._evaluator(run.model)

  def _check_scores(self) -> None:
    """Refuses activation scores of another base."""
    run = self.run
    saved.check_base(
      run.staging.sidecar,
      self.digest,
      features.vocabulary_digest(run.vocabulary),
      allow=run.allow_other_base,
      path=run.staging.scores_file,
    )

  def _evaluator(self, model) -> Evaluator:
    """The evaluator of a model, made on first need."""
    run = self.run
    if model.config not in self.evaluators:
      self.evaluators[model.config] = Evaluator(
        model,
        run.evaluations,
        run.eval_mode,
        run.class_labels,
        mesh=run.mesh,
        stop=lambda: self._interruption.requested,
      )
    return self.evaluators[model.config]

  def restore(self, step: int | None = None) -> tuple[states.State, Best]:
    """The state to go on from, and the best evaluation so far.

    Args:
      step: of the checkpoint; None is the newest whole one.
    """
    state = initial_state(self.run, self.trainable)
    for number in reversed(self.checkpoints.steps()):
      # Another run's state has another shape, so its manifest comes first.
      try:
        manifest = self.checkpoints.manifest(number)
      except Exception:
        continue
      check_same_run(self.identity, manifest, self.run.folder)
      self._tell_dtype(manifest)
      break
    found = self.checkpoints.restore(state, step)
    if found is None:
      return state, Best()
    state, manifest = found
    return state, Best(**manifest['best'])

  def _tell_dtype(self, manifest: Mapping) -> None:
    """Warns if 'auto' stands for another dtype than where the run began."""
    here = self.run.model.config.activation_dtype
    there = manifest.get('activation_dtype', here)
    if there != here:
      logging.warning(
        'the checkpoint in %s was trained with ACTIVATION_DTYPE=%r, this run '
        'goes on in %r; set it to the former for the same numbers',
        self.run.folder,
        there,
        here,
      )

  def evaluate(self, state: states.State) -> dict[str, float]:
    """Metrics of the models as they stand; writes eval/<step>/.

    Of several models, see `train.Run.evaluated`, the metrics of all but the
    first have its name in front, and files below it.
    """
    run, found, made = self.run, {}, {}
    if not run.evaluations:
      return {}
    # the stage that made this update, also where the next is about to begin
    stage = run.staging.at(max(int(state.step) - 1, 0))
    whole = run.staging.cuts[stage].is_whole
    for each in run.evaluated:
      part = None if whole or each == 'full' else stage
      if part not in made:
        model = run.model if part is None else self.parts.model(part)
        frozen = self.frozen if part is None else self.parts.frozen(part)
        made[part] = self._evaluator(model)(
          params.merge(state.trainable, frozen)
        )
      results = made[part]
      if results is None:
        return {}
      under = '' if each == run.evaluated[0] else f'{each}/'
      for name, value in flat_metrics(results).items():
        found[f'{under}{name}'] = value
      self._write(results, f'{int(state.step)}/{under}')
    return found

  def _write(self, results, where: str) -> None:
    """Writes metrics and predictions below eval/."""
    if jax.process_index() != 0:
      return
    for result in results:
      name = self.run.folder / 'eval' / where / result.task
      files.write_json_lines(f'{name}.jsonl', result.predictions)
      files.write_json(f'{name}.json', result.told())

  def save(self, state, metrics, best: Best) -> None:
    """Prompts first, then the checkpoint of the same step.

    Whoever finds the checkpoint finds its prompts: a run that died between
    the two makes the step, and so the same prompts, again.
    """
    self.export(state, metrics)
    manifest = {
      'identity': self.identity,
      'best': dataclasses.asdict(best),
      'metrics': dict(metrics or {}),
      'base': str(self.run.base),
      'data_position': int(state.step),
      'config': ginfiles.operative(),
      'activation_dtype': self.run.model.config.activation_dtype,
      'versions': export.versions(),
    }
    self.checkpoints.save(state, manifest)

  def export(self, state, metrics) -> None:
    """Writes prompts/<step>/ and inserts/<step>/, as far as there are any."""
    run, step = self.run, str(int(state.step))
    if jax.process_index() != 0:
      return
    flat = params.merge(state.trainable, self.frozen)
    sidecar = self.sidecar(int(state.step), metrics)
    if export.sources(run.model):
      export.write(
        str(run.folder / 'prompts' / step),
        run.model,
        flat,
        run.dataset.tasks,
        sidecar,
      )
    if inserts.own(flat):
      folder = run.folder / 'inserts' / step
      inserts.save(folder, run.model.inserts, flat, sidecar)

  def sidecar(self, step: int, metrics) -> dict:
    """What the files of all prompts of a step have in common."""
    run = self.run
    return {
      'method': self.method,
      'base': os.path.basename(str(run.base).rstrip('/')),
      'base_digest': self.digest,
      'vocabulary_digest': features.vocabulary_digest(run.vocabulary),
      'step': step,
      'metrics': dict(metrics or {}),
      'seed': run.seed,
      'versions': export.versions(),
    }

  def _digest_now(self) -> str:
    """Digest of the frozen base as it is held."""
    return states.digest(quantized.opened(self.frozen))

  def check_frozen(self) -> None:
    """Raises RuntimeError if the frozen base is not what it was."""
    now = self._digest_now()
    if now != self._frozen_digest:
      raise RuntimeError(
        f'the frozen base changed: digest {self._frozen_digest} at the start, '
        f'{now} now; what was trained belongs to no base'
      )
