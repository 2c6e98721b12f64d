"""Known bugs of methods, planted one at a time: what is meant for each fails.

A check that passes a broken engine is worth nothing, so each is first seen to
pass the engine as it is, by contract_test.py or its own file, and to fail
here. The last test prints which bug was caught by what (`pytest -rP`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
import math

import jax
import numpy as np
import pytest

from prompt_jax import export, merge, params, prompted, spot
from prompt_jax.inserts import Adapter, LoRA
from prompt_jax.prompts import attached, attempt, initializers, wayward
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.residual import Residual
from prompt_jax.t5 import layers
from prompt_jax.training import ranking
from prompt_jax.training.step import Program
from tests import checks, infer_sources_test, miniature, planted, spot_test
from tests.inserts import formula_test, merge_test
from tests.prompts import (
  attached_test,
  attempt_test,
  deep_layers_test,
  initializers_test,
  residual_test,
  wayward_test,
)
from tests.t5 import position_bias_test
from tests.training import label_scores_test, ranking_test

# fixtures of the tests below
arrays, paths = formula_test.arrays, attempt_test.paths
shelf, sources = spot_test.shelf, infer_sources_test.sources
small, sound = planted.small, planted.sound


def _scaled_back(scores):
  """`Attempt._scores` whose temperature is 1."""

  def hot(self, every, embeds, mask):
    tau = self.temperature or math.e * embeds.shape[-1]
    return tau * scores(self, every, embeds, mask)

  return hot


def _first_task(mixture):
  return lambda self, ids, *rest: mixture(self, 0 * ids, *rest)


def _change_alone(made):
  """`Residual._made` without its skip, where it should have one."""
  return lambda self, prompt: (
    made(self, prompt) - prompt if self.residual else made(self, prompt)
  )


def _without_gradient(made):
  return lambda self, prompt: (
    prompt + jax.lax.stop_gradient(made(self, prompt) - prompt)
  )


def _bank_too(split):
  """`params.split` that trains the bank."""
  return lambda flat, table: split(
    flat, [('encoder/prompt/bank/.*', 0.3), *table]
  )


def _decayed(call):
  """`Program.__call__` whose weight decay reaches what is frozen."""

  def step(self, state, frozen, batch):
    result = call(self, state, frozen, batch)
    frozen.update({k: x * (1 - 1e-5) for k, x in frozen.items()})
    return result

  return step


def _other_way(entering):
  swapped = {'add': 'overwrite', 'overwrite': 'add'}
  return lambda rows, where, deeper: entering(rows, where, swapped[deeper])


def _unscaled(lora):
  """`LoRA.__call__` without alpha / rank."""
  return lambda self, y, x: (
    y + (lora(self, y, x) - y) * (self.rank / self.alpha)
  )


def _without_alpha(standing):
  """`merge._standing` that folds every LoRA with alpha / rank = 1."""

  def plain(make):
    def made(**settings):
      insert = make(**settings)
      if isinstance(insert, LoRA):
        insert = insert.clone(alpha=float(insert.rank))
      return insert

    return made

  return lambda model: [(at, i, plain(make)) for at, i, make in standing(model)]


def _keys_for_values(site):
  other = {'key': 'value', 'value': 'key'}

  def swapped(module, name, y, x):
    met = [make for at, make in module.inserts if at == '.*/(key|value|hidden)']
    if not met or name not in other:
      return site(module, name, y, x)
    # what stands at the keys carries the name of the values, and back
    return met[0](name=f'{other[name]}_insert')(y, x)

  return swapped


def _no_bias(bias):
  return lambda self, queries, keys: 0 * bias(self, queries, keys)


def _summed(from_files):
  """`from_files` that adds where it should average."""

  def made(paths, how='average'):
    init = from_files(paths, how)
    count = len(paths) if how == 'average' else 1
    return lambda rng, shape: count * init(rng, shape)

  return made


def _inner_alone(prompt_arrays):
  """`export.prompt_arrays` that leaves the network of a residual out."""

  def arrays(model, flat, tasks):
    prompt = np.asarray(flat['encoder/prompt/inner/prompt'])
    return {'encoder': dict.fromkeys(tasks, prompt)}

  return arrays


def _in_reverse(bank):
  """`attached._bank` whose rows stand under one another's task."""

  def swapped(each, files):
    made = bank(each, files)
    own = {path: table[::-1] for path, table in made.own.items()}
    return dataclasses.replace(made, own=own)

  return swapped


def _unreal(right):
  """`place` that leaves its prompt out of the mask."""

  def masked(prompt, embeds, mask, where='prefix'):
    placed = right(prompt, embeds, mask, where)
    return placed._replace(mask=placed.mask & ~placed.is_prompt)

  return masked


@dataclasses.dataclass(frozen=True)
class Bug:
  """A bug of a method.

  Attributes:
    where, name: what it replaces. plant: sound -> broken.
    caught: tests that have to fail, or checks of the contract.
    given: arguments of these, by name; fixtures need not be given.
    method: of the contract.
  """

  where: object
  name: str
  plant: Callable
  caught: tuple[Callable, ...]
  given: Mapping = dataclasses.field(default_factory=dict)
  method: str | None = None


_moves, _learns = (
  checks.check_only_the_table_moves,
  checks.check_every_row_learns,
)
_MULTI = 'methods/attempt_multi.gin'
_PROMPT = 'methods/prompt.gin'
_RESIDUAL = 'methods/residual.gin'
_TASKS = 'methods/multitask.gin'
BUGS = {
  'ATTEMPT without its temperature': Bug(
    Attempt,
    '_scores',
    _scaled_back,
    (attempt_test.test_formula,),
    {'temperature': None},
  ),
  'ATTEMPT pools padding': Bug(
    attempt,
    'pooled_max',
    lambda right: lambda embeds, mask: embeds.max(axis=1),
    (
      checks.check_padding,
      attempt_test.test_padding_is_not_pooled_unless_asked,
    ),
    method=_MULTI,
  ),
  'ATTEMPT ignores task ids': Bug(
    Attempt,
    'mixture',
    _first_task,
    (checks.check_task_isolation, infer_sources_test.test_rows_of_a_source),
    method=_MULTI,
  ),
  'ATTEMPT leaves the target out of the sum': Bug(
    Attempt,
    'mixture',
    lambda right: (
      lambda self, ids, embeds, mask: (
        made := right(self, ids, embeds, mask)
      )._replace(prompt=made.prompt - self.targets(ids, embeds, mask))
    ),
    (attempt_test.test_formula,),
    {'temperature': 3.0},
  ),
  'the bank trains': Bug(
    params, 'split', _bank_too, (_moves,), method='methods/attempt.gin'
  ),
  'weight decay reaches the base': Bug(
    Program, '__call__', _decayed, (_moves,), method=_PROMPT
  ),
  'every row has task 0': Bug(
    prompted,
    '_ids',
    lambda right: lambda ids, embeds: 0 * right(ids, embeds),
    (checks.check_task_isolation,),
    method=_TASKS,
  ),
  'a residual without its skip': Bug(
    Residual, '_made', _change_alone, (residual_test.test_formula,)
  ),
  'no gradient reaches the network of a residual': Bug(
    Residual, '_made', _without_gradient, (_learns,), method=_RESIDUAL
  ),
  'a residual exported without its network': Bug(
    export,
    'prompt_arrays',
    _inner_alone,
    (checks.check_export,),
    method=_RESIDUAL,
  ),
  'a prompt that is not in the mask': Bug(
    prompted, 'place', _unreal, (_learns,), method=_PROMPT
  ),
  'slices of a deep prompt in reverse': Bug(
    prompted,
    'cut',
    lambda right: lambda rows, depth: right(rows, depth)[::-1],
    (deep_layers_test.test_what_enters_each_layer,),
    {'deeper': 'overwrite'},
  ),
  'deeper layers add where they should overwrite': Bug(
    prompted,
    'entering',
    _other_way,
    (deep_layers_test.test_what_enters_each_layer,),
    {'deeper': 'overwrite'},
  ),
  'deeper layers overwrite where they should add': Bug(
    prompted,
    'entering',
    _other_way,
    (deep_layers_test.test_what_enters_each_layer,),
    {'deeper': 'add'},
  ),
  'a wayward prompt is pushed away': Bug(
    wayward,
    'distance',
    lambda right: lambda *both: -right(*both),
    (wayward_test.test_the_distance_is_sown_once_and_pulls_the_prompt_back,),
  ),
  'the hinge rewards the wrong label': Bug(
    ranking,
    'hinge',
    lambda right: lambda scores, *rest, **more: right(-scores, *rest, **more),
    (ranking_test.test_criteria,),
  ),
  'scores of labels with the wrong sign': Bug(
    ranking,
    'label_scores',
    lambda right: lambda *args, **more: -right(*args, **more),
    (label_scores_test.test_scores_are_those_of_inference,),
  ),
  'LoRA without alpha / rank': Bug(
    LoRA, '__call__', _unscaled, (formula_test.test_lora,)
  ),
  'LoRA merged without alpha / rank': Bug(
    merge,
    '_standing',
    _without_alpha,
    (merge_test.test_logits_stay,),
    {'table': 'lora', 'source': 'plain', 'gated': True},
  ),
  'IA3 of the keys on the values': Bug(
    layers,
    'site',
    _keys_for_values,
    (merge_test.test_logits_stay,),
    {'table': 'ia3', 'source': 'encoder', 'gated': True},
  ),
  'an adapter without its skip': Bug(
    Adapter,
    '__call__',
    lambda right: lambda self, y, x: right(self, y, x) - y,
    (checks.check_inserts,),
    method='methods/adapter_pfeiffer.gin',
  ),
  'no table of position biases': Bug(
    layers.RelativePositionBias,
    '__call__',
    _no_bias,
    (
      position_bias_test.test_the_bias_is_the_table,
      position_bias_test.test_both_stacks_read_their_tables,
    ),
    {'bidirectional': True},
  ),
  'SPoT weighs all prompts alike': Bug(
    spot,
    'weights',
    lambda right: lambda scores, how: right(scores, 'mean'),
    (spot_test.test_weighted_start, spot_test.test_weights),
  ),
  'several prompts are added, not averaged': Bug(
    initializers,
    'from_files',
    _summed,
    (initializers_test.test_several_files_are_averaged,),
  ),
  'a bank under the wrong tasks': Bug(
    attached, '_bank', _in_reverse, (attached_test.test_a_bank_of_tasks,)
  ),
}


@pytest.mark.parametrize('bug', BUGS)
def test_bug_of_a_method(bug, small, request, tmp_path, monkeypatch):
  chosen = BUGS[bug]
  right = getattr(chosen.where, chosen.name)
  # merging looks for itself: here the tests have to
  monkeypatch.setattr(merge, '_check_logits', lambda *args: None)
  monkeypatch.setattr(chosen.where, chosen.name, chosen.plant(right))
  broken = None
  if chosen.method:
    folder, macros = small
    command = miniature.command(folder, [chosen.method], macros, tmp_path)
    broken = checks.Setup(*command)
  for test in chosen.caught:
    if test.__module__ == checks.__name__:
      planted.fails(test, broken)
      continue
    asks = inspect.signature(test).parameters
    given = {
      name: chosen.given[name]
      if name in chosen.given
      else request.getfixturevalue(name)
      for name in asks
    }
    planted.fails(test, **given)
