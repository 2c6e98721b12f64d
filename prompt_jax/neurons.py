"""Activation scores of a base's units over a task, to choose units by.

    a_{t,j} = | act(wi_0 x)_j (wi_1 x)_j |       at position t, ahead of wo
    score_j = mean over examples of (mean over real positions t of a_{t,j})

    prompt-jax neurons --gin_file=models/mini.gin \\
      --gin_file=runs/neurons.gin --gin.MIXTURE_OR_TASK_NAME=movie_sentiment \\
      --gin.SCORES_DIR=scores/mini

Writes SCORES_DIR/<task>.npz and .json, see `scores`.
Source: Huang et al. 2022 (FPT), section 3.2 and released code.
Departures: examples of the training split unless told otherwise, for that
code reads the labels of the validation split.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from prompt_jax import compile_cache, export, params, scores, tuned
from prompt_jax.errors import UserError
from prompt_jax.inserts.record import COLLECTION, Record, mean_over, recorded
from prompt_jax.prompts import Prompt
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.t5.submodel import STACKS
from prompt_jax.tasks import features
from prompt_jax.training.step import Program

_SITE = r'{stack}/layers_\d+/mlp/hidden'
_FILES = str | Sequence[str] | Mapping[str, str] | None


@dataclasses.dataclass
class Neurons:
  """What to score; gin binds its fields, `score` carries it out.

  Args:
    output_dir: folder of the scores, a file for each task.
    config: shapes of the base.
    base: its checkpoint.
    dataset: examples, from the first on in the order of its seed.
    prompt_file: a saved prompt, a list of one for each stack, {task: such}, or
      None.
    untrained_rows: where there is no prompt, rows of an untrained one, uniform
      in +-1/sqrt(H); 0 is the base alone.
    inserts_file: inserts.npz, or None for the model without inserts.
    max_examples: of all tasks together; fewer if the data has fewer.
    seed: of an untrained prompt.
    vocabulary: the vocabulary of the data.
    allow_other_base: accept a prompt that was trained on another base.
  """

  output_dir: str
  config: T5Config
  base: str
  dataset: Any
  prompt_file: _FILES = None
  untrained_rows: int = 0
  inserts_file: str | None = None
  max_examples: int = 1000
  seed: int = 0
  vocabulary: str = 'shipped'
  allow_other_base: bool = False

  def check(self) -> None:
    """Raises UserError for what can be known before the base is read."""
    if not self.config.num_encoder_layers:
      raise UserError(
        'The model is decoder-only (NUM_ENCODER_LAYERS=0); expected one with '
        'an encoder, whose positions and targets are averaged apart. Take the '
        'model file of an encoder-decoder.'
      )
    if self.untrained_rows and self.prompt_file is not None:
      raise UserError(
        f'UNTRAINED_ROWS is {self.untrained_rows} and there is a PROMPT_FILE; '
        'expected one prompt, untrained or saved. Leave one of them out.'
      )
    if self.untrained_rows < 0:
      raise UserError(
        f'UNTRAINED_ROWS is {self.untrained_rows}; expected 0 or more.'
      )
    if self.max_examples < 1:
      raise UserError(
        f'MAX_EXAMPLES is {self.max_examples}; expected at least 1.'
      )


def example_means(
  model: nn.Module,
  flat: Mapping[str, jax.Array],
  batch: Mapping,
  of: Callable = jnp.abs,
) -> dict[str, jax.Array]:
  """Mean activation of every unit in each example.

  Args:
    model: with a prompt or without, of an encoder and a decoder.
    flat: its parameters {path: array}.
    batch: a batch of the data.
    of: what is averaged of an activation; the scores take its size.
  Returns: {stack: float32[L,B,F]} over real positions: rows of the prompt and
    tokens of the input; tokens of the target, teacher-forced.
  """
  places = [(_SITE.format(stack=s), Record) for s in STACKS]
  model = model.clone(inserts=(*model.inserts, *places))
  run = functools.partial(
    model.apply, {'params': params.unflatten(flat)}, mutable=[COLLECTION]
  )
  ids = batch['task_ids']
  encoded, of_inputs = run(batch['encoder_input_tokens'], ids, method='encode')
  targets = batch['decoder_target_tokens']
  _, of_targets = run(
    encoded, batch['decoder_input_tokens'], targets, ids, method='decode'
  )
  found = {}
  for stack, state in zip(STACKS, (of_inputs, of_targets), strict=True):
    kept = recorded(state)
    number = lambda path: int(path.split('/')[1].removeprefix('layers_'))
    layers = [kept[path] for path in sorted(kept, key=number)]
    mask = encoded.mask if stack == 'encoder' else targets > 0
    before = layers[0].shape[1] - mask.shape[1]  # a prompt of the decoder
    mask = jnp.pad(mask, ((0, 0), (before, 0)), constant_values=True)
    found[stack] = jnp.stack([mean_over(y, mask, of) for y in layers])
  return found


def summer(model: nn.Module, tasks: int) -> Callable:
  """Builds `(flat, batch, counted float32[B]) -> sums of example means`.

  Args:
    model: see `example_means`. tasks: M.
  Returns: the function; its result is ({stack: float32[M,L,F]}, float32[M]
    examples). Rows of `counted` 0 are left out.
  """

  def run(flat, batch, counted):
    own = jax.nn.one_hot(batch['task_ids'], tasks) * counted[:, None]  # [B,M]
    means = example_means(model, flat, batch)
    sums = {s: jnp.einsum('BM,LBF->MLF', own, x) for s, x in means.items()}
    return sums, own.sum(axis=0)

  return run


def score(run: Neurons) -> list[str]:
  """Scores and writes; returns the files, one a task.

  Raises: UserError for bad input, before anything is compiled.
  """
  run.check()
  compile_cache.keep()
  tasks = run.dataset.tasks
  model, flat, digest = _model(run, tasks)
  about = _sidecar(run, model, flat, digest)
  paths = {
    task: pathlib.Path(run.output_dir).expanduser() / f'{task}.npz'
    for task in tasks
  }
  for path in paths.values():
    _check_whose(path, about)
  known = run.dataset.num_examples
  count = run.max_examples if known is None else min(run.max_examples, known)
  size, total = run.dataset.batch_size, None
  program = Program('the scores', summer(model, len(tasks)))
  batches = run.dataset.batches()
  for number in range(math.ceil(count / size)):
    counted = np.arange(number * size, (number + 1) * size) < count
    found = program(flat, next(batches), counted.astype(np.float32))
    # in float64: sums of many batches have to keep what one adds
    found = jax.tree.map(lambda x: np.asarray(x, np.float64), found)
    total = found if total is None else jax.tree.map(np.add, total, found)
  batches.close()
  sums, examples = total
  written = []
  for i, task in enumerate(tasks):
    if not examples[i]:
      raise UserError(
        f'None of the first {count} examples is of {task!r}; expected some of '
        'each task. Raise MAX_EXAMPLES, or score it alone.'
      )
    means = {
      s: (x[i] / examples[i]).astype(np.float32) for s, x in sums.items()
    }
    own = {'task': task, 'examples': int(examples[i])}
    written.append(scores.save(paths[task], means, {**about, **own}))
    print(f'{paths[task]}: {int(examples[i])} examples', flush=True)
  return written


def _check_whose(path: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Raises if there are scores of another base, prompt or inserts already."""
  beside = path.with_suffix('.json')
  there = json.loads(beside.read_text()) if beside.is_file() else {}
  for key in ('base_digest', 'prompt_digest', 'inserts_file'):
    if there.get(key, about[key]) != about[key]:
      raise UserError(
        f'{path} holds scores with {key} {there[key]}, these are of '
        f'{about[key]}; expected a folder for each model and prompt. Give '
        'another SCORES_DIR, or remove the file.'
      )


def _model(run: Neurons, tasks: Sequence[str]):
  """The model with its prompt, its parameters, the digest of its base."""
  prompt = run.prompt_file
  if isinstance(prompt, Mapping):
    missing = [task for task in tasks if task not in prompt]
    if missing:
      raise UserError(
        f'PROMPT_FILE has prompts for {", ".join(prompt) or "no task"}; '
        f'expected one for {missing[0]!r} too. Add its file.'
      )
    prompt = {task: prompt[task] for task in tasks}  # in the order of the ids
  model, flat, digest = tuned.assemble(
    run.config,
    pretrained.resolve(run.base),
    prompt,
    run.vocabulary,
    run.allow_other_base,
    run.inserts_file,
  )
  if run.untrained_rows:
    width = run.config.d_model
    limit = 1 / math.sqrt(width)  # the paper's released code
    model = model.clone(
      encoder_prompt=functools.partial(Prompt, run.untrained_rows)
    )
    flat['encoder/prompt/prompt'] = jax.random.uniform(
      jax.random.key(run.seed),
      (run.untrained_rows, width),
      jnp.float32,
      -limit,
      limit,
    )
  return model, flat, digest


def _sidecar(run: Neurons, model, flat, digest: str) -> dict[str, Any]:
  """What the scores of all tasks have in common."""
  own = {path: x for path, x in flat.items() if '/prompt/' in path}
  return {
    'base': pathlib.Path(run.base).name,
    'base_digest': digest,
    'vocabulary_digest': features.vocabulary_digest(run.vocabulary),
    'activation_dtype': run.config.activation_dtype,
    'split': run.dataset.split,
    'lengths': dict(run.dataset.task_feature_lengths),
    'seed': run.dataset.seed,
    'prompt_file': run.prompt_file,
    'prompt_digest': params.digest(jax.device_get(own)) if own else None,
    'untrained_rows': run.untrained_rows,
    'inserts_file': run.inserts_file,
    'versions': export.versions(),
  }


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('neurons')
