"""Prompts in a model: placement, padding, tasks and what trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import params, predict
from prompt_jax.errors import UserError
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.place import WHERE
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.t5.t5 import T5
from prompt_jax.training import loss as losses
from prompt_jax.training.state import abstract
from prompt_jax.training.step import forward
from tests import models

CLOSE = dict(rtol=1e-5, atol=1e-5)
REAL = np.asarray(models.batch()['decoder_target_tokens']) > 0
TASKS = 'encoder/prompt/prompts'
CASES = [('encoder', where) for where in WHERE] + [
  ('decoder', 'prefix'),
  ('both', 'after_eos'),
  ('tasks', 'prefix'),
]


@pytest.mark.parametrize('source, where', CASES)
def test_padding_changes_no_logits(source, where):
  model = models.make(source, where)
  flat = models.initial(model)
  run = models.compiled(model)
  plain = np.asarray(run(flat, models.batch()))
  assert plain.shape == (*REAL.shape, models.V)
  for extra in (1, 7):
    padded = np.asarray(run(flat, models.batch(extra=extra)))
    padded = padded[:, : plain.shape[1]]
    np.testing.assert_allclose(padded[REAL], plain[REAL], **CLOSE)


@pytest.mark.parametrize('source', ['both', 'tasks'])
def test_rows_do_not_see_each_other(source):
  model = models.make(source)
  flat, rows = models.initial(model), models.batch()
  run = models.compiled(model)
  order = jnp.array([2, 0, 1])
  turned = run(flat, {name: x[order] for name, x in rows.items()})
  np.testing.assert_allclose(turned, run(flat, rows)[order], **CLOSE)


def test_placements_differ_and_the_prompt_is_seen():
  plain = models.make()
  made = [models.logits(plain, models.initial(plain), models.batch())]
  for where in WHERE:
    model = models.make('encoder', where)
    made.append(models.logits(model, models.initial(model), models.batch()))
  for i, one in enumerate(made):
    for other in made[:i]:
      assert np.abs(one - other)[REAL].max() > 1e-4


@pytest.mark.parametrize('source', models.SOURCES)
def test_other_paths_are_those_of_the_plain_model(source):
  model = models.make(source)
  shapes, axes = abstract(model)
  base, _ = abstract(T5(model.config))
  sources = {
    'plain': {},
    'encoder': {'encoder/prompt/prompt': (models.P, models.H)},
    'decoder': {'decoder/prompt/prompt': (models.DECODER_P, models.H)},
    'tasks': {TASKS: (models.M, models.P, models.H)},
  }
  sources['both'] = sources['encoder'] | sources['decoder']
  added = {path: x.shape for path, x in shapes.items() if path not in base}
  assert added == sources[source] and base.keys() <= shapes.keys()
  assert all(axes[path][-2:] == ('prompt', 'prompt_embed') for path in added)


def test_encoded_mask_counts_the_prompt():
  model = models.make('encoder')
  encoded = predict.encode(model, models.initial(model), models.batch())
  counts = np.array(models.INPUTS) + models.P
  np.testing.assert_array_equal(encoded.mask.sum(1), counts)
  length = max(models.INPUTS) + models.P
  assert encoded.states.shape == (len(counts), length, models.H)


def test_a_row_of_a_task_is_that_of_its_own_prompt():
  many, one = models.make('tasks'), models.make('encoder')
  flat, rows = models.initial(many), models.batch()
  got = models.logits(many, flat, rows)
  prompts = flat.pop(TASKS)
  run = models.compiled(one)
  for b, task in enumerate(rows['task_ids']):
    alone = run(flat | {'encoder/prompt/prompt': prompts[task]}, rows)
    np.testing.assert_allclose(got[b], alone[b], **CLOSE)


def test_tasks_do_not_touch_each_other():
  model = models.make('tasks')
  flat, rows = models.initial(model), models.batch()
  rows['task_ids'] = jnp.array([3, 7, 3])

  def total(prompts):
    logits = forward(model, flat | {TASKS: prompts}, rows)
    alone = rows['decoder_loss_weights'] * (rows['task_ids'] == 3)[:, None]
    return losses.loss(logits, rows | {'decoder_loss_weights': alone})[0]

  gradient = np.asarray(jax.jit(jax.grad(total))(flat[TASKS]))
  others = np.arange(models.M) != 3
  assert (np.abs(gradient[3]).max(-1) > 0).all()
  assert not gradient[others].any()  # of task 5, and of 7, which has a row


def test_gradients_of_a_mixed_batch_are_those_of_its_tasks_alone():
  many, one = models.make('tasks'), models.make('encoder')
  flat, rows = models.initial(many), models.batch()
  prompts, ids = flat.pop(TASKS), jnp.array([3, 7, 3])

  def total(model, path, rows):
    def of(prompts):
      logits = forward(model, flat | {path: prompts}, rows)
      return losses.loss(logits, rows)[0]

    return jax.jit(jax.grad(of))

  mixed = total(many, TASKS, rows | {'task_ids': ids})(prompts)
  for task in (3, 7):
    chosen = np.flatnonzero(ids == task)
    own = {name: x[chosen] for name, x in rows.items()}
    alone = total(one, 'encoder/prompt/prompt', own)(prompts[task])
    assert np.abs(alone).max() > 1e-3
    np.testing.assert_allclose(mixed[task], alone, **CLOSE)  # of order 1


@pytest.mark.parametrize('source', ['encoder', 'decoder', 'both', 'tasks'])
def test_rows_of_the_sources(source):
  model = models.make(source)
  flat = models.initial(model)
  ids = jnp.array([3, 5])
  rows = model.apply(
    {'params': params.unflatten(flat)}, ids, method='prompt_rows'
  )
  stacks = {'both': {'encoder', 'decoder'}, 'tasks': {'encoder'}}
  assert rows.keys() == stacks.get(source, {source})
  for stack, row in rows.items():
    if source == 'tasks':
      expected = flat[TASKS][ids]
    else:
      prompt = flat[f'{stack}/prompt/prompt']
      expected = jnp.broadcast_to(prompt, (2, *prompt.shape))
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize('stack', ['encoder', 'decoder'])
def test_more_prompts_than_layers_are_refused(stack):
  layers = {'encoder': models.ENCODER_LAYERS, 'decoder': models.DECODER_LAYERS}
  model = models.make(stack).clone(**{f'{stack}_depth': layers[stack] + 1})
  with pytest.raises(UserError, match=f'{layers[stack]} layers; expected at'):
    abstract(model)


def test_a_source_that_reads_its_input_is_none_for_a_decoder(tmp_path):
  np.save(tmp_path / 'one.npy', np.ones((3, models.H), np.float32))
  bank = functools.partial(Bank, [tmp_path / 'one.npy'], 3)
  source = functools.partial(Attempt, lambda: Prompt(3), bank)
  model = models.make('encoder').clone(
    encoder_prompt=None, decoder_prompt=source
  )
  with pytest.raises(UserError, match='Attempt reads .* Give it as encoder_pr'):
    abstract(model)
