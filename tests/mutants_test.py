"""Known bugs, planted one at a time: the check that is meant for it fails.

A check that passes a broken engine is worth nothing, so each is first seen to
pass the engine as it is, by contract_test.py or its own file, and to fail
here. The last test prints which bug was caught by what (`pytest -rP`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
import math
import os
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import batches, export, ginfiles, merge, params, prompted, spot
from prompt_jax.inserts import Adapter, LoRA
from prompt_jax.prompts import attached, attempt, initializers, wayward
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.place import Placed, place
from prompt_jax.prompts.residual import Residual
from prompt_jax.session import Session
from prompt_jax.t5 import layers
from prompt_jax.t5.t5 import T5
from prompt_jax.training import ranking
from prompt_jax.training.checkpoint import Checkpoints
from prompt_jax.training.step import Program
from tests import checks, goldens_test, infer_sources_test, miniature, spot_test
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

_PROMPT = 'methods/prompt.gin'
_TASKS = 'methods/multitask.gin'
_NORM = 'encoder/encoder_norm/scale'

# A method of inserts, so that their check has one to fail on.
_SCALED = """from __gin__ import dynamic_registration
from prompt_jax import prompted
from prompt_jax import train
from tests import mutants_test
prompted.PromptEncoderDecoder.inserts = [('.*/hidden', @mutants_test.Scale)]
mutants_test.Scale.first = {first}
mutants_test.Scale.reads = {reads}
train.Run.table = [('.*_insert/.*', 0.3)]
"""


class Scale(nn.Module):
  """y times a learned number; 1 at first is the identity."""

  first: float = 1.0
  reads: bool = True

  @nn.compact
  def __call__(self, y, x):
    del x
    first = nn.initializers.constant(self.first)
    scale = self.param('scale', first, y.shape[2:])
    return y * scale[None, None] if self.reads else y


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  return folder, miniature.write(folder)


@pytest.fixture
def setup(small, tmp_path):
  """`(method) -> Setup`, made while the bug is planted."""
  folder, macros = small

  def make(method):
    command = miniature.command(folder, [method], macros, tmp_path / 'run')
    return checks.Setup(*command)

  return make


@pytest.fixture(scope='module')
def sound(small):
  """`(method, folder) -> Setup` for bugs outside of what is compiled."""
  folder, macros = small
  made = {}

  def fork(method, run_folder):
    command = miniature.command(folder, [method], macros, folder / 'sound')
    if method not in made:
      made[method] = checks.Setup(*command)
    made[method].parse()
    return made[method].fork(run_folder)

  return fork


_caught: list[tuple[str, str]] = []  # (bug, what caught it)


def _fails(check, *args, **settings):
  """Runs a check that has to fail, and notes that it did."""
  with pytest.raises((AssertionError, pytest.fail.Exception)):
    check(*args, **settings)
  test = os.environ['PYTEST_CURRENT_TEST'].partition('::')[2].split(' (')[0]
  bug = re.search(r'\[(.*)\]$', test) if '_method[' in test else None
  bug = bug[1] if bug else test.removeprefix('test_').replace('_', ' ')
  _caught.append((bug, f'{check.__module__}.{check.__name__}'))


def _encode_unmasked(self, tokens, task_ids=None, deterministic=True):
  """`T5.encode` that takes padding for input."""
  embeds = self.token_embedder(tokens)
  return self.encoder(embeds, tokens >= 0, task_ids, deterministic)


def test_padding_that_is_not_masked(setup, monkeypatch):
  monkeypatch.setattr(T5, 'encode', _encode_unmasked)
  _fails(checks.check_padding, setup(_PROMPT))


def test_prompt_after_the_padding(setup, monkeypatch):
  def behind(prompt, embeds, mask, where='prefix'):
    del where
    real = jnp.ones(prompt.shape[:2], bool)
    join = lambda *parts: jnp.concatenate(parts, axis=1)
    is_prompt = join(jnp.zeros_like(mask), real)
    return Placed(join(embeds, prompt), join(mask, real), is_prompt)

  monkeypatch.setattr(prompted, 'place', behind)
  _fails(checks.check_padding, setup(_PROMPT))


def test_wrong_task_id(setup, monkeypatch):
  right = prompted._ids
  # the id of the row before
  monkeypatch.setattr(
    prompted, '_ids', lambda ids, embeds: jnp.roll(right(ids, embeds), 1)
  )
  broken = setup(_TASKS)
  _fails(checks.check_task_isolation, broken)
  _fails(checks.check_batch_order, broken)


def test_prompt_that_drops_a_row(setup, monkeypatch):
  def short(prompt, embeds, mask, where='prefix'):
    return place(prompt.at[:, 0].set(0), embeds, mask, where)

  monkeypatch.setattr(prompted, 'place', short)
  _fails(checks.check_every_row_learns, setup(_PROMPT))


@pytest.mark.parametrize('method', [_PROMPT, _TASKS])
def test_export_of_the_wrong_array(sound, tmp_path, monkeypatch, method):
  right = export.prompt_arrays

  def without_scale(model, flat, tasks):
    """What the encoder's norm makes of a row, its scale forgotten."""
    arrays = right(model, flat, tasks)
    root = lambda x: np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    return {
      stack: {task: x / root(x) for task, x in each.items()}
      for stack, each in arrays.items()
    }

  monkeypatch.setattr(export, 'prompt_arrays', without_scale)
  _fails(checks.check_export, sound(method, tmp_path))


def test_export_under_the_wrong_task(sound, tmp_path, monkeypatch):
  right = export.prompt_arrays
  monkeypatch.setattr(
    export,
    'prompt_arrays',
    lambda model, flat, tasks: {
      stack: dict(zip(each, reversed(each.values()), strict=True))
      for stack, each in right(model, flat, tasks).items()
    },
  )
  _fails(checks.check_export, sound(_TASKS, tmp_path))


def test_a_table_that_trains_one_leaf_more(setup, monkeypatch):
  right = params.split

  def more(flat, table):
    return right(flat, [*table, (_NORM, 0.3)])

  monkeypatch.setattr(params, 'split', more)
  _fails(checks.check_only_the_table_moves, setup(_PROMPT))


def test_a_step_that_moves_a_frozen_leaf(sound, tmp_path, monkeypatch):
  right = Program.__call__

  def moving(self, state, frozen, batch):
    result = right(self, state, frozen, batch)
    frozen[_NORM] = frozen[_NORM] * (1 + 1e-6)  # a few last bits
    return result

  monkeypatch.setattr(Program, '__call__', moving)
  _fails(checks.check_only_the_table_moves, sound(_PROMPT, tmp_path))


def test_a_step_that_stands_still(sound, tmp_path, monkeypatch):
  right = Program.__call__

  def still(self, state, frozen, batch):
    # the step takes the memory of what it is given
    kept = {path: jnp.copy(x) for path, x in state.trainable.items()}
    state, sums = right(self, state, frozen, batch)
    return state.replace(trainable=kept), sums

  monkeypatch.setattr(Program, '__call__', still)
  broken = sound(_PROMPT, tmp_path)
  _fails(checks.check_only_the_table_moves, broken)
  _fails(checks.check_loss_falls, broken)


def test_a_checkpoint_of_the_whole_model(sound, tmp_path, monkeypatch):
  right = Session.save

  def whole(self, state, metrics, best):
    flat = params.merge(state.trainable, self.frozen)
    right(self, state.replace(trainable=flat), metrics, best)

  monkeypatch.setattr(Session, 'save', whole)
  monkeypatch.setattr(Session, 'export', lambda *args: None)
  _fails(checks.check_disk, sound(_PROMPT, tmp_path))


def test_resume_that_forgets_the_optimizer(sound, tmp_path, monkeypatch):
  right = Checkpoints.restore

  def forgetful(self, like, step=None):
    state, manifest = right(self, like, step)
    return state.replace(opt_state=like.opt_state), manifest

  broken = sound(_PROMPT, tmp_path)
  monkeypatch.setattr(Checkpoints, 'restore', forgetful)
  _fails(checks.check_resume, broken)


def test_data_order_that_ignores_the_seed(monkeypatch):
  right = batches.draws
  monkeypatch.setattr(batches, 'draws', lambda seed, *rest: right(0, *rest))
  _fails(checks.check_data_order, miniature.ordered)


@pytest.mark.parametrize(
  'first, reads, passes',
  [(1.0, True, True), (1.5, True, False), (1.0, False, False)],
)
def test_inserts(setup, tmp_path, first, reads, passes):
  method = tmp_path / 'scaled.gin'
  method.write_text(_SCALED.format(first=first, reads=reads))
  made = setup(method)
  if passes:
    checks.check_inserts(made)
    checks.check_disk(made)
  else:
    _fails(checks.check_inserts, made)


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
_RESIDUAL = 'methods/residual.gin'
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
  planted = BUGS[bug]
  right = getattr(planted.where, planted.name)
  # merging looks for itself: here the tests have to
  monkeypatch.setattr(merge, '_check_logits', lambda *args: None)
  monkeypatch.setattr(planted.where, planted.name, planted.plant(right))
  broken = None
  if planted.method:
    folder, macros = small
    command = miniature.command(folder, [planted.method], macros, tmp_path)
    broken = checks.Setup(*command)
  for test in planted.caught:
    if test.__module__ == checks.__name__:
      _fails(test, broken)
      continue
    asks = inspect.signature(test).parameters
    given = {
      name: planted.given[name]
      if name in planted.given
      else request.getfixturevalue(name)
      for name in asks
    }
    _fails(test, **given)


def test_insert_at_the_wrong_site(small, tmp_path):
  """The golden of a method knows where its inserts stand."""
  text = pathlib.Path(ginfiles.find('methods/ia3.gin')).read_text()
  wrong = tmp_path / 'ia3.gin'
  wrong.write_text(text.replace('(key|value|hidden)', '(query|value|hidden)'))
  assert wrong.read_text() != text
  _fails(
    goldens_test.test_parameters_are_those_of_the_golden, str(wrong), small
  )


def test_which_bug_was_caught_by_what():
  """Prints the table; every bug above is in it if this file ran whole."""
  width = max((len(bug) for bug, _ in _caught), default=0)
  for bug, by in _caught:
    print(f'{bug:<{width}}  {by}')
