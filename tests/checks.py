"""What every method owes, as functions that raise AssertionError.

Each takes a `Setup`: a method on a small model. None knows a method's name;
what a method is exempt from, its own parts declare (`instance_wise`, the
logical axes of its parameters, its table).
"""

import copy
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import export, ginfiles, params, train
from prompt_jax.errors import UserError
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.session import Session, initial_state
from prompt_jax.training import loss as losses
from prompt_jax.training import sharding
from prompt_jax.training import state as states
from prompt_jax.training.checkpoint import Checkpoints
from prompt_jax.training.loop import Best, Interruption
from prompt_jax.training.step import forward
from tests import miniature

CLOSE = dict(rtol=0, atol=1e-5)  # float32; logits are of order 1


class Setup:
  """A method on a small model, at step 0, and what its steps make of it.

  Attributes:
    before: {path: host array}, every parameter at step 0.
    axes: {path: logical axis names}.
  """

  def __init__(self, files, given):
    self.files, self.given = files, given
    self.run = miniature.configured(files, given)
    self.run.check()
    self.session = Session(self.run, Interruption())
    self.model = self.run.model
    self.axes = states.abstract(self.model)[1]
    self.before = jax.device_get(
      params.merge(self.session.trainable, self.session.frozen)
    )
    self.program = train._program(self.session, self.fresh())

  def parse(self):
    """Makes this the configuration that gin's references read."""
    ginfiles.parse(self.files, self.given)

  def fork(self, folder: pathlib.Path) -> 'Setup':
    """The same at step 0, in another folder; what is compiled is shared."""
    other = copy.copy(self)
    for name in ('second', 'flat'):
      other.__dict__.pop(name, None)
    other.run, other.session = copy.copy(self.run), copy.copy(self.session)
    other.run.folder, other.session.run = folder, other.run
    other.session.frozen = dict(self.session.frozen)
    other.session.checkpoints = Checkpoints(folder / 'checkpoints')
    return other

  def fresh(self) -> states.State:
    """The state at step 0, its own copy: a step takes what it is given."""
    copy = jax.tree.map(jnp.copy, self.session.trainable)
    return initial_state(self.run, copy)

  def advance(self, state, steps: int, batch=None):
    """(state after some steps, mean loss of each step's batch)."""
    means = []
    for _ in range(steps):
      rows = batch or self.run.dataset.batch(int(state.step))
      state, sums = self.program(
        state, self.session.frozen, sharding.put_batch(self.run.mesh, rows)
      )
      means.append(float(sums['loss'] / sums['weights']))
    return state, means

  @functools.cached_property
  def second(self) -> states.State:
    """The state after two steps."""
    return self.advance(self.fresh(), 2)[0]

  @functools.cached_property
  def flat(self) -> params.Flat:
    """Every parameter after two steps."""
    return params.merge(self.second.trainable, self.session.frozen)

  @functools.cached_property
  def _forward(self):
    return forward_of(self.model)

  def logits(self, flat, batch):
    """Teacher-forced logits float32[B,U,V] as a host array."""
    return np.asarray(self._forward(flat, batch))

  @functools.cached_property
  def gradient(self):
    """The gradient function `(batch) -> {trainable path: host array}`."""

    def total(trainable, frozen, batch):
      logits = forward(self.model, params.merge(trainable, frozen), batch)
      return losses.loss(logits, batch)[0]

    compiled = jax.jit(jax.grad(total))
    return lambda batch: jax.device_get(
      compiled(self.second.trainable, self.session.frozen, batch)
    )


def forward_of(model):
  """`(parameters, batch) -> logits` of a model, compiled once a shape."""
  return jax.jit(lambda flat, batch: forward(model, flat, batch))


def check_traces(setup):
  """The parameters are those of the trace; logits are finite [B,U,V]."""
  shapes = states.abstract(setup.model)[0]
  assert params.difference(shapes, setup.before) == []
  batch = miniature.whole_batch()
  logits = setup.logits(setup.before, batch)
  assert logits.shape == (
    miniature.BATCH,
    miniature.TARGETS,
    miniature.VOCABULARY,
  )
  assert logits.dtype == np.float32 and np.isfinite(logits).all()


def check_compiles_once(setup):
  """Steps after the first run what the first compiled."""
  assert int(setup.second.step) == 2
  assert setup.program.compilations == 1


def check_only_the_table_moves(setup):
  """Two steps move every leaf that the table names and no bit of the rest."""
  patterns = [pattern for pattern, _ in setup.run.table]
  for path, old in setup.before.items():
    new = np.asarray(setup.flat[path])
    assert new.dtype == old.dtype and new.shape == old.shape, path
    same = new.tobytes() == old.tobytes()
    if any(re.fullmatch(pattern, path) for pattern in patterns):
      assert not same, f'{path} trains but did not move'
    else:
      assert same, f'{path} is frozen but moved'


def check_every_row_learns(setup):
  """No leaf, and no row of a trained prompt, has a gradient of zero."""
  for path, gradient in setup.gradient(miniature.whole_batch()).items():
    # weight decay alone would move it too
    assert np.abs(gradient).max() > 0, f'{path} trains without a gradient'
    if 'prompt' in setup.axes[path]:
      rows = setup.axes[path].index('prompt') + 1
      sizes = np.abs(gradient).sum(axis=tuple(range(rows, gradient.ndim)))
      assert (sizes > 0).all(), f'{path}: rows {np.argwhere(sizes == 0)}'


def stored_keys(folder: pathlib.Path) -> set[str]:
  """Slash names of the arrays in a checkpoint, as its store lists them."""
  import tensorstore

  found = set()
  for each in sorted(folder.rglob('manifest.ocdbt')):
    # the parts below belong to a writer and are merged into the one above
    if not each.parent.name.startswith('ocdbt.process'):
      store = tensorstore.KvStore.open(
        {'driver': 'ocdbt', 'base': each.parent.as_uri() + '/'}
      ).result()
      keys = [key.decode() for key in store.list().result()]
      found.update(key.replace('.', '/') for key in keys)
  return found


def check_disk(setup):
  """A checkpoint holds what trains, by name and by size, and nothing else."""
  setup.session.save(setup.second, {}, Best())
  folder = setup.run.folder / 'checkpoints' / str(int(setup.second.step))
  files = [path for path in folder.rglob('*') if path.is_file()]
  texts = {path: path.read_bytes().decode('latin1') for path in files}
  stored, trains = stored_keys(folder), setup.session.rates
  frozen = setup.before.keys() - trains
  for path in trains:
    assert any(f'/{path}/' in f'/{key}' for key in stored), f'{path} missing'
  for path in frozen:
    inside = re.compile(rf'(?<!\w){re.escape(path)}(?!\w)')
    assert not any(f'/{path}/' in f'/{key}' for key in stored), path
    for file, text in texts.items():
      # the store parts its keys by dots
      named = inside.search(text) or inside.search(text.replace('.', '/'))
      assert not named, f'{path} is named in {file}'
  weight = lambda paths: sum(setup.before[path].nbytes for path in paths)
  if weight(trains) < weight(frozen) / 10:
    size = sum(path.stat().st_size for path in files)
    # every array of the store, moments too, has a header of about 1 KiB
    limit = 4 * weight(trains) + 4096 * len(trains) + 64 * 1024
    assert size < limit, f'{size} bytes on disk, at most {limit} expected'


def check_inserts(setup):
  """Inserts change no logit at step 0, and do after two steps.

  One that says it is not neutral changes them from the start.
  """
  batch = setup.run.dataset.batch(0)
  if not setup.model.inserts:
    assert not [path for path in setup.before if '_insert' in path]
    return
  plain = setup.model.clone(inserts=())
  paths, run = states.abstract(plain)[0], forward_of(plain)

  def both(flat):
    without = run({path: flat[path] for path in paths}, batch)
    return setup.logits(flat, batch), np.asarray(without)

  kinds = [make(parent=None) for _, make in setup.model.inserts]
  if all(getattr(kind, 'neutral', True) for kind in kinds):
    with_inserts, without = both(setup.before)
    np.testing.assert_array_equal(with_inserts, without, 'not the identity')
  # base and source are the same on both sides: only inserts differ
  with_inserts, without = both(setup.flat)
  assert np.abs(with_inserts - without).max() > 1e-3, 'inserts do nothing'


def _plain_prompts(setup, lengths):
  """`({stack: [P,H]}) -> logits` with plain prompts in place of the sources.

  Args:
    lengths: {stack: P}; a stack that is not named has no prompt.
  """
  stacks = {
    f'{stack}_prompt': functools.partial(Prompt, length)
    for stack, length in lengths.items()
  }
  nothing = dict(encoder_prompt=None, decoder_prompt=None)
  run = forward_of(setup.model.clone(**nothing | stacks))
  rest = {p: x for p, x in setup.flat.items() if p.split('/')[1] != 'prompt'}
  batch = setup.run.dataset.batch(0)

  def logits(arrays):
    own = {f'{stack}/prompt/prompt': x for stack, x in arrays.items()}
    return np.asarray(run(params.merge(rest, own), batch))

  return logits


def check_export(setup):
  """The files written do what the method does; else export refuses."""
  tasks, batch = setup.run.dataset.tasks, setup.run.dataset.batch(0)
  if not export.exportable(setup.model):
    with pytest.raises(UserError, match='expected a'):
      export.prompt_arrays(setup.model, setup.flat, tasks)
    return
  folder = setup.run.folder / 'exported'
  export.write_prompts(str(folder), setup.model, setup.flat, tasks, {})
  sources = export.sources(setup.model)
  suffixes = {'encoder': '', 'decoder': '.decoder'}
  arrays = {
    task: {
      stack: np.load(folder / f'{task}{suffixes[stack]}.npy')
      for stack in sources
    }
    for task in tasks
  }
  lengths = {stack: len(rows) for stack, rows in arrays[tasks[0]].items()}
  wanted = setup.logits(setup.flat, batch)
  bare = _plain_prompts(setup, {})({})
  plain = _plain_prompts(setup, lengths)
  for i, task in enumerate(tasks):
    rows = batch['task_ids'] == i
    assert rows.any(), f'the batch has no row of {task}'
    got = plain(arrays[task])[rows]
    np.testing.assert_allclose(got, wanted[rows], **CLOSE, err_msg=task)
    assert np.abs(got - bare[rows]).max() > 1e-3, f'{task} changes nothing'


def check_padding(setup):
  """More padding, of inputs or of targets, changes no logit."""
  batch = setup.run.dataset.batch(0)
  assert (batch['encoder_input_tokens'] == 0).any()
  wanted = setup.logits(setup.flat, batch)
  for more in (1, 7):
    padded = {
      name: np.pad(array, ((0, 0), (0, more))) if array.ndim == 2 else array
      for name, array in batch.items()
    }
    got = setup.logits(setup.flat, padded)[:, : miniature.TARGETS]
    real = batch['decoder_target_tokens'] > 0
    message = f'{more} more padding'
    np.testing.assert_allclose(
      got[real], wanted[real], **CLOSE, err_msg=message
    )


def check_batch_order(setup):
  """The rows of a batch do not see one another: logits move with them."""
  batch = setup.run.dataset.batch(0)
  order = np.random.default_rng(43).permutation(miniature.BATCH)
  moved = {name: array[order] for name, array in batch.items()}
  got, wanted = setup.logits(setup.flat, moved), setup.logits(setup.flat, batch)
  np.testing.assert_allclose(got, wanted[order], **CLOSE)


def check_task_isolation(setup):
  """The loss of one task has a gradient of exactly 0 at the others' rows."""
  whole = miniature.whole_batch()
  apart = {
    path: setup.axes[path].index('tasks')
    for path in setup.session.rates
    if 'tasks' in setup.axes[path]
  }
  several = any(
    source.num_tasks > 1 for source in export.sources(setup.model).values()
  )
  # what is of one task alone may be frozen, and all that trains be shared
  named = any('tasks' in axes for axes in setup.axes.values())
  assert named == several, 'no parameter has an axis of tasks'
  for i in range(len(miniature.TASKS)) if apart else ():
    own = (whole['task_ids'] == i)[:, None]
    weights = np.where(own, whole['decoder_loss_weights'], np.float32(0))
    gradients = setup.gradient({**whole, 'decoder_loss_weights': weights})
    for path, axis in apart.items():
      for j, rows in enumerate(np.moveaxis(gradients[path], axis, 0)):
        message = f'{path}: loss of task {i}, rows of task {j}'
        assert rows.any() == (i == j), message


def check_same_state(one, other):
  """Two states agree bit for bit, leaf by leaf."""
  ours, tree = jax.tree_util.tree_flatten_with_path(jax.device_get(one))
  theirs, same_tree = jax.tree.flatten(jax.device_get(other))
  assert tree == same_tree
  for (path, left), right in zip(ours, theirs, strict=True):
    name = jax.tree_util.keystr(path)
    assert left.dtype == right.dtype and left.shape == right.shape, name
    assert left.tobytes() == right.tobytes(), f'{name} differs'


def check_resume(setup):
  """Saved after two steps and restored, two more end where four do."""
  setup.session.save(setup.second, {}, Best())
  wanted, _ = setup.advance(setup.fresh(), 4)
  again = Session(setup.run, Interruption())
  again.checkpoints = setup.session.checkpoints
  state, _ = again.restore()
  assert int(state.step) == 2
  check_same_state(setup.advance(state, 2)[0], wanted)


def check_loss_falls(setup):
  """Thirty steps on one batch lower its loss, at the method's own rates."""
  batch = setup.run.dataset.batch(0)
  _, means = setup.advance(setup.fresh(), 30, batch)
  assert np.isfinite(means).all(), means
  assert means[-1] < means[0], means


def check_data_order(data):
  """`data(seed)`: one seed gives one order, another seed another."""
  first, again, other = data(0), data(0), data(1)
  for step in (3, 0):  # any step, in any order
    one, two = first.batch(step), again.batch(step)
    for name, array in one.items():
      np.testing.assert_array_equal(array, two[name], name)
    there = other.batch(step)['encoder_input_tokens']
    assert not np.array_equal(there, one['encoder_input_tokens']), (
      f'the seed does not change the batch of step {step}'
    )
