"""PromptX models behind T5X's interface, so that `t5x.train` trains prompts.

    python -m t5x.train --gin_search_paths=gin \\
      --gin_file=t5x/finetune.gin --gin_file=models/t5_1_1_lm100k_base.gin \\
      --gin_file=t5x/prompt.gin --gin.MODEL_DIR="'runs/first'" ...

What T5X brings is its trainer, data, partitioning and checkpoints; model,
loss, decoding and Adafactor are those of this package. The optional module:
nothing else here imports it.
Source: google-research/t5x, models.py and optimizers.py (2026-04-21).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import sys
from typing import Any

import flax
import flax.linen as nn
from flax.linen import partitioning
import jax
import jax.numpy as jnp

from prompt_jax import export, predict
from prompt_jax import params as params_lib
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.sites import select
from prompt_jax.t5.t5x_checkpoint import Checkpoint
from prompt_jax.tasks import features
from prompt_jax.training import loss, optim
from prompt_jax.training.adafactor import AdafactorState

try:
  import seqio
  from t5x import models, optimizers
except ImportError as error:
  raise UserError(
    f'prompt_jax.t5x got "{error}"; expected T5X, which is on no package '
    'registry. Clone https://github.com/google-research/t5x and install it '
    'with its requirements (among them seqio, clu, fiddle, airio and '
    'jestimator), or train with prompt_jax.train, which needs none of them.'
  ) from error


class FeatureConverter(seqio.EncDecFeatureConverter):
  """SeqIO's encoder-decoder features, one example a row.

  Raises: UserError if asked to pack.
  """

  def __init__(self, pack: bool = False, **kwargs):
    if pack:
      raise UserError(
        'DatasetConfig.pack is True; expected False: a prompt stands in front '
        'of a row and would be shared by the examples packed into it. Set '
        'train/utils.DatasetConfig.pack = False and the same for train_eval, '
        'as t5x/finetune.gin does.'
      )
    super().__init__(pack=False, **kwargs)


def vocabulary(name: str):
  """The SeqIO vocabulary of VOCABULARY in a model file.

  Args:
    name: 'shipped', 'bytes', or a SentencePiece model, local or gs://...
  """
  if name.startswith('gs://'):  # SeqIO copies it here when it is first used
    return seqio.SentencePieceVocabulary(name, extra_ids=features.EXTRA_IDS)
  return features.vocabulary(name)


class EncoderDecoderModel:
  """What T5X calls of a model, over a PromptX module.

  Args:
    module: such as `PromptEncoderDecoder`.
    input_vocabulary, output_vocabulary: SeqIO vocabularies.
    optimizer_def: T5X's optimizer, such as `TableOptimizer`.
    decoding: how `predict_batch` decodes; T5X's default is one beam.
    label_smoothing, z_loss, loss_normalizing_factor: see `training.loss`.
  Raises: UserError if a source holds several tasks, for T5X's batches do not
    say which one a row belongs to.
  """

  FEATURE_CONVERTER_CLS = FeatureConverter

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary,
    output_vocabulary,
    optimizer_def,
    decoding: predict.Decoding | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: str | float | None = None,
  ):
    select(module.inserts, module.config)  # a pattern without site is told now
    self.module = module
    self.input_vocabulary = input_vocabulary
    self.output_vocabulary = output_vocabulary
    self.optimizer_def = optimizer_def
    self.decoding = decoding or predict.Decoding('beam')
    self._smoothing, self._z_loss = label_smoothing, z_loss
    self._normalizing = loss_normalizing_factor
    for source in export.sources(module).values():
      if source.num_tasks > 1:
        raise UserError(
          f'{type(source).__name__} has num_tasks={source.num_tasks}; expected '
          "1: T5X's batches do not say which task a row belongs to. Set "
          'NUM_TASKS=1, or train with prompt_jax.train, which numbers them.'
        )

  def get_initial_variables(self, rng, input_shapes, input_types=None):
    """{'params': arrays, 'params_axes': AxisMetadata at '<leaf>_axes'}."""
    del input_shapes, input_types
    tokens = jnp.zeros((1, 1), jnp.int32)  # no parameter depends on a length
    tree = self.module.init(rng, tokens, tokens, tokens)['params']
    boxed = params_lib.flatten(tree)
    axes = {
      f'{path}_axes': partitioning.AxisMetadata(
        tuple(getattr(leaf, 'names', (None,) * jnp.ndim(leaf)))
      )
      for path, leaf in boxed.items()
    }
    return flax.core.freeze(
      {'params': nn.meta.unbox(tree), 'params_axes': params_lib.unflatten(axes)}
    )

  def loss_fn(self, params, batch, dropout_rng):
    """(scalar loss, {name: clu metric}); dropout_rng None drops nothing."""
    logits = self.module.apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      deterministic=dropout_rng is None,
      rngs=None if dropout_rng is None else {'dropout': dropout_rng},
    )
    targets = batch['decoder_target_tokens']
    losses, penalties = loss.token_losses(
      logits, targets, self._z_loss, self._smoothing
    )
    weights, divisor = loss.normalizer(self._normalizing, batch)
    total = loss.weighted_sum(losses, weights) / divisor
    real = ('encoder_input_tokens', 'decoder_target_tokens')
    metrics = models.compute_base_metrics(
      logits=logits,
      targets=targets,
      mask=weights,
      loss=total,
      z_loss=loss.weighted_sum(penalties, weights) / divisor,
      segment_ids={name: batch[name] != 0 for name in real},
    )
    return total, metrics

  def eval_fn(self, params, batch):
    """As `loss_fn`, nothing dropped."""
    return self.loss_fn(params, batch, None)

  def predict_batch(self, params, batch, rng=None):
    """The best decode of each row, int32[B,U], U that of the targets."""
    return self.predict_batch_with_aux(params, batch, rng)[0]

  def predict_batch_with_aux(self, params, batch, rng=None):
    """(int32[B,U], {'scores': float32[B]}); rng seeds sampling."""
    decoding = self.decoding
    if rng is not None:
      seed = jax.random.bits(rng, (), jnp.uint32)
      decoding = dataclasses.replace(decoding, seed=seed)
    length = batch['decoder_input_tokens'].shape[1]
    decode = predict.decoder(self.module, length, decoding)
    tokens, scores = decode(*self._flat(params, batch))
    return tokens[:, -1], {'scores': scores[:, -1]}

  def score_batch(self, params, batch):
    """Log probability of the targets, float32[B]; no z-loss in it."""
    return predict.scorer(self.module)(*self._flat(params, batch))

  def _flat(self, tree, batch):
    """Parameters and batch as the rest of the package has them."""
    return params_lib.flatten(tree), {**batch, 'task_ids': None}


@flax.struct.dataclass
class HyperParams:
  """What T5X's trainer sets at each step."""

  learning_rate: Any = None


class TableOptimizer(optimizers.OptimizerDef):
  """Adafactor on what a train table names; the rest is not touched.

  rate of a path = its number in the table * the Trainer's learning rate

  State is kept for what trains only, under T5X's names, so that native and
  Orbax checkpoints resume: state/param_states/<path>/{v, v_row, v_col, m}.
  The counter is T5X's step, which goes on from the base's, as it did in the
  published runs.

  Args:
    table: ordered [(path pattern, factor)], see `params.split`.
    optimizer: `training.adafactor.adafactor` or a partial of it; it is called
      with the logical axes of the parameters.
  Raises: UserError as `params.split` and `adafactor`.
  Departures: `first_step` of the optimizer is not read.
  """

  def __init__(
    self,
    table: Sequence[tuple[str, float]],
    optimizer: Callable[..., optim.Optimizer],
  ):
    super().__init__(HyperParams())
    self._table, self._make = tuple(table), optimizer
    self._axes: dict[str, tuple] | None = None

  def set_param_axes(self, param_logical_axes) -> None:
    """Takes the axis names of all parameters; T5X calls this first."""
    flat = params_lib.flatten(param_logical_axes)
    self._axes = {path: tuple(names) for path, names in flat.items()}

  @property
  def _optimizer(self):
    return self._make(logical_axes=self._axes)

  def init_state(self, tree):
    trainable, _, _ = params_lib.split(params_lib.flatten(tree), self._table)
    state = self._optimizer.init(trainable)
    return _theirs(state._replace(count=jnp.zeros((), jnp.int32)))

  def apply_gradient(self, hyper_params, tree, state, grads):
    trainable, frozen, factors = params_lib.split(
      params_lib.flatten(tree), self._table
    )
    grads = params_lib.flatten(grads)
    updates, after = self._optimizer.update(
      {path: grads[path] for path in trainable},
      _ours(state),
      trainable,
      learning_rate={
        path: hyper_params.learning_rate * factor
        for path, factor in factors.items()
      },
    )
    moved = optim.apply_updates(trainable, updates)
    new = params_lib.unflatten({**frozen, **moved})
    if isinstance(tree, flax.core.FrozenDict):
      new = flax.core.freeze(new)
    return new, _theirs(after)

  def derive_logical_axes(self, optimizer, param_logical_axes):
    """The optimizer with axis names for arrays; None is replicated."""
    axes = params_lib.flatten(param_logical_axes)
    slots = {}
    for key in params_lib.flatten(optimizer.state.param_states):
      path, name = key.rsplit('/', 1)
      slots[key] = axes[path] if name in ('v', 'm') else None
    state = optimizers.OptimizerState(None, params_lib.unflatten(slots))
    return optimizers.Optimizer(self, state, param_logical_axes)


_SLOTS = ('v_row', 'v_col', 'v', 'm')


def _theirs(state: AdafactorState):
  """Our state as T5X's: step and tree {path: {slot: array}}."""
  slots = {
    f'{path}/{name}': array
    for name in _SLOTS
    for path, array in getattr(state, name).items()
  }
  return optimizers.OptimizerState(state.count, params_lib.unflatten(slots))


def _ours(state) -> AdafactorState:
  """The inverse of `_theirs`."""
  fields = {name: {} for name in _SLOTS}
  for key, array in params_lib.flatten(state.param_states).items():
    path, name = key.rsplit('/', 1)
    fields[name][path] = array
  return AdafactorState(state.step, **fields)


def _own(flat: Mapping[str, Any]):
  """The leaves of the prompt sources."""
  return {p: x for p, x in flat.items() if p.split('/')[1] == 'prompt'}


class PromptExport:
  """Writes <model_dir>/prompts/<step>/<task>.npy whenever T5X saves.

  A member of SaveCheckpointConfig.state_transformation_fns, which T5X calls
  with either of its checkpointers; the state passes through unchanged.

  Args:
    module: the model's module. model_dir: folder of the run.
    task: name of the file. base: what the sidecar is to call the base.
  """

  def __init__(
    self, module: nn.Module, model_dir: str, task: str, base: str = ''
  ):
    self._module, self._model_dir = module, model_dir
    self._task, self._base = task, base

  def __call__(self, state_dict, parameter_infos):
    if jax.process_index() == 0:
      step = int(jax.device_get(state_dict['state']['step']))
      # host arrays: whatever mesh T5X has, what follows runs on one device
      flat = jax.device_get(_own(params_lib.flatten(state_dict['target'])))
      folder = os.path.join(self._model_dir, 'prompts', str(step))
      sidecar = _sidecar(self._module, self._base, step)
      export.write_prompts(folder, self._module, flat, [self._task], sidecar)
    return state_dict, parameter_infos


def _sidecar(module, base: str, step: int | None):
  return {
    'method': {
      stack: type(x).__name__ for stack, x in export.sources(module).items()
    },
    'base': os.path.basename(base.rstrip('/')),
    'step': step,
    'versions': export.versions(),
  }


def export_prompts(
  checkpoint: str, output: str, task: str = 'prompt'
) -> list[str]:
  """Writes the prompts of a checkpoint that T5X saved, native or Orbax.

  Args:
    checkpoint: the folder checkpoint_<step>, local or gs://bucket/...
    output: folder of the new <task>.npy and <task>.json.
    task: name of the files.
  Returns: the paths of the .npy files, one a stack with a prompt.
  Raises: UserError if its prompts are of another source than `Prompt`.
  Departures: the digest in the sidecar is that of the base as T5X saved it,
    which equals the base's own where both are of one dtype.
  """
  opened = Checkpoint(checkpoint)
  whole = {key.removeprefix('target/'): key for key in opened.shapes}
  paths = sorted(path for path, key in whole.items() if path != key)
  own = {p: opened.read(whole[p]) for p in _own(dict.fromkeys(paths))}
  factories, width = {}, 1
  for path, array in own.items():
    stack, name = path.split('/prompt/')
    if name != 'prompt':
      raise UserError(
        f"{checkpoint} holds {path}; expected '{stack}/prompt/prompt', the one "
        'parameter of a plain prompt. Prompts of other sources are written by '
        'the run itself to MODEL_DIR/prompts (PromptExport in gin).'
      )
    length, width = array.shape
    factories[f'{stack}_prompt'] = functools.partial(Prompt, length)
  config = T5Config(1, width, 1, 1, 1, 0, 0)  # only the sources are run
  module = PromptEncoderDecoder(config, **factories)
  total = params_lib.Digest()
  for path in paths:
    if path not in own:
      total.update(path, opened.read(whole[path]))
  sidecar = _sidecar(module, '', opened.step) | {'base_digest': total.hex()}
  return export.write_prompts(output, module, own, [task], sidecar)


def main(argv: Sequence[str] | None = None) -> int:
  """Exports from the command line; returns the exit status."""
  parser = argparse.ArgumentParser(prog='python -m prompt_jax.t5x')
  parser.add_argument('--checkpoint', required=True, help='checkpoint_<step>')
  parser.add_argument('--output', required=True, help='folder to write to')
  parser.add_argument('--task', default='prompt', help='name of the files')
  args = parser.parse_args(argv)
  try:
    print('\n'.join(export_prompts(args.checkpoint, args.output, args.task)))
  except UserError as error:
    print(f'prompt_jax.t5x: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
