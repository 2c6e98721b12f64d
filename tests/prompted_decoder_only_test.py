"""Prompts in a model without an encoder: where they stand, what they see."""

import functools
import os
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import export, params, predict, train, tuned
from prompt_jax.errors import UserError
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.t5 import pretrained
from prompt_jax.t5.t5 import T5
from prompt_jax.training.state import abstract, base_shapes
from tests import models, prefix_lm, tiny

P = 7
CLOSE = dict(rtol=1e-5, atol=1e-5)
CLOSE_FORMULA = dict(rtol=1e-4, atol=1e-4)  # float32 against float64
FIELDS = {
  'prompt': {'decoder_prompt': lambda: Prompt(P)},
  'tasks': {'decoder_prompt': lambda: TaskPrompts(models.M, P)},
  'overwrite': {'decoder_prompt': lambda: Prompt(2 * P), 'decoder_depth': 2},
  'add': {
    'decoder_prompt': lambda: Prompt(3 * P),
    'decoder_depth': 3,
    'deeper': 'add',
  },
}
every_source = pytest.mark.parametrize('name', FIELDS)


def make(name):
  """(model, its parameters)."""
  config = models.config(num_encoder_layers=0)
  model = PromptEncoderDecoder(config, **FIELDS[name])
  return model, models.initial(model)


def slices(model, flat, task_id):
  """The prompts [P,H] of a row's layers."""
  if 'decoder/prompt/prompts' in flat:
    return [np.asarray(flat['decoder/prompt/prompts'])[task_id]]
  rows = np.asarray(flat['decoder/prompt/prompt'])
  return np.split(rows, model.decoder_depth)


@every_source
def test_other_paths_are_those_of_the_plain_model(name):
  model, _ = make(name)
  shapes, axes = abstract(model)
  base = abstract(T5(model.config))[0]
  assert base_shapes(model) == base
  (added,) = shapes.keys() - base.keys()
  assert added.startswith('decoder/prompt/prompt')
  assert axes[added][-2:] == ('prompt', 'prompt_embed')


@every_source
def test_logits_are_those_of_the_formula(name):
  model, flat = make(name)
  batch = models.batch(extra=2)
  got = np.asarray(models.logits(model, flat, batch))
  rows = prefix_lm.rows(batch)
  for b, (inputs, targets) in enumerate(rows):
    own = slices(model, flat, int(batch['task_ids'][b]))
    add = model.deeper == 'add'
    formula = functools.partial(
      prefix_lm.logits, model.config, flat, inputs, targets
    )
    wanted = formula(own, add)
    row = got[b, : len(targets)]
    np.testing.assert_allclose(row, wanted, **CLOSE_FORMULA)
    assert np.abs(formula() - wanted).max() > 1e-2
    if len(own) > 1:
      assert np.abs(formula(own[:1]) - wanted).max() > 1e-3


@every_source
def test_steps_give_the_logits_of_one_pass(name):
  model, flat = make(name)
  rows = models.batch(extra=1)
  wanted = np.asarray(models.logits(model, flat, rows))
  got = prefix_lm.stepwise(model, flat, rows)
  real = np.asarray(rows['decoder_target_tokens']) > 0
  np.testing.assert_allclose(got[real], wanted[real], **CLOSE)


@every_source
def test_padding_changes_no_logits(name):
  model, flat = make(name)
  run = models.compiled(model)
  plain = np.asarray(run(flat, models.batch()))
  real = np.asarray(models.batch()['decoder_target_tokens']) > 0
  for extra in (1, 7):
    padded = np.asarray(run(flat, models.batch(extra=extra)))
    padded = padded[:, : plain.shape[1]]
    np.testing.assert_allclose(padded[real], plain[real], **CLOSE)


def test_labels_of_a_row_have_its_own_prompt():
  model, flat = make('tasks')
  rows = models.batch()
  labels = jnp.array([[5, 1, 0], [7, 11, 1]])
  scores = np.asarray(jax.jit(predict.ranker(model))(flat, rows, labels))
  for b, (inputs, _) in enumerate(prefix_lm.rows(rows)):
    own = slices(model, flat, int(rows['task_ids'][b]))
    for c, label in enumerate(([5, 1], [7, 11, 1])):
      each = prefix_lm.logits(model.config, flat, inputs, label, own)
      each -= np.log(np.exp(each).sum(-1, keepdims=True))
      wanted = each[np.arange(len(label)), label].sum()
      np.testing.assert_allclose(scores[b, c], wanted, **CLOSE_FORMULA)


class Mean(nn.Module):
  """The mean of the input, at each of two positions."""

  instance_wise = True
  num_tasks = 1
  length = 2

  def __call__(self, task_ids, embeds, mask):
    total = jnp.sum(jnp.where(mask[:, :, None], embeds, 0), axis=1)
    mean = total / mask.sum(1, keepdims=True)
    return jnp.broadcast_to(mean[:, None], (len(mean), 2, mean.shape[1]))


def test_a_source_reads_the_input_and_no_target():
  config = models.config(num_encoder_layers=0)
  model = PromptEncoderDecoder(config, decoder_prompt=Mean)
  flat, batch = models.initial(model), models.batch(extra=1)
  got = np.asarray(models.logits(model, flat, batch))
  table = np.asarray(flat['decoder/token_embedder/embedding'])
  for b, (inputs, targets) in enumerate(prefix_lm.rows(batch)):
    own = [np.broadcast_to(table[inputs].mean(0), (2, models.H))]
    wanted = prefix_lm.logits(config, flat, inputs, targets, own)
    np.testing.assert_allclose(got[b, : len(targets)], wanted, **CLOSE_FORMULA)


def test_a_prompt_of_the_encoder_is_refused():
  config = models.config(num_encoder_layers=0)
  model = PromptEncoderDecoder(config, encoder_prompt=lambda: Prompt(P))
  with pytest.raises(UserError) as caught:
    abstract(model)
  assert str(caught.value) == (
    'A prompt of the encoder was given to a model of NUM_ENCODER_LAYERS=0; '
    'expected one with an encoder. This one is decoder-only: use '
    'methods/prompt_decoder.gin.'
  )


def test_a_saved_prompt_is_loaded_with_its_base(tmp_path):
  plain = tiny.model(None, num_encoder_layers=0)
  flat = models.initial(plain)
  config = {'t5': pretrained.shapes_of(plain.config)}
  base = str(tmp_path / 'base')
  pretrained.save(base, flat, config)
  source = functools.partial(Prompt, 3)
  model = PromptEncoderDecoder(plain.config, decoder_prompt=source)
  rng = np.random.default_rng(5)
  own = rng.normal(size=(3, 7)).astype(np.float32)
  whole = flat | {'decoder/prompt/prompt': jnp.asarray(own)}
  sidecar = {'base_digest': params.digest(jax.device_get(flat))}
  export.write_prompts(str(tmp_path), model, whole, ['task'], sidecar)
  loaded = tuned.load(
    base,
    str(tmp_path / 'task.decoder.npy'),
    vocabulary='bytes',
    lengths={'inputs': 11, 'targets': 5},
    batch_size=3,
  )
  texts, labels = ['a film', 'b', 'another'], ['no', 'yes']
  scores = loaded.scores(texts, labels)
  for b, text in enumerate(texts):
    inputs = [*loaded.encode(text), 1]
    for c, label in enumerate(labels):
      ids = [*loaded.encode(label), 1]
      each = prefix_lm.logits(plain.config, whole, inputs, ids, [own])
      each -= np.log(np.exp(each).sum(-1, keepdims=True))
      wanted = each[np.arange(len(ids)), ids].sum()
      np.testing.assert_allclose(scores[b, c], wanted, rtol=1e-4, atol=1e-3)
  assert len(loaded.generate(texts)) == 3


@pytest.mark.slow  # a run with its evaluations
@pytest.mark.parametrize('mode', ['rank', 'generate'])
def test_a_run_trains_and_evaluates(mode, tmp_path):
  files = tmp_path / 'files'
  tiny.write_files(files, name=f'decoder_only_{mode}')
  model = files / 'model.gin'
  text = model.read_text().replace('NUM_ENCODER_LAYERS = 1\n', '')
  model.write_text(text.replace('t5_1_1.gin', 'decoder_only.gin'))
  run = tiny.configured(
    files,
    tmp_path / 'run',
    method='prompt_decoder',
    EVAL_MODE=mode,
    DROPOUT_RATE=0.1,
  )
  with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR='unused'):
    summary = train.train(run)
  assert summary['step'] == 4 and summary['trainable'] == 3 * 7
  name = f'decoder_only_{mode}'
  folder = tmp_path / 'run' / 'prompts'
  first, last = (
    np.load(folder / step / f'{name}.decoder.npy') for step in '04'
  )
  assert first.shape == (3, 7) and np.abs(last - first).max() > 1e-3
  assert (tmp_path / 'run' / 'eval' / '4' / f'{name}.json').is_file()
