"""Scores over a task: streamed sums, which examples count, bad input."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_jax import batches, neurons, scores
from prompt_jax.errors import UserError
from prompt_jax.t5.config import T5Config
from tests import models, tiny

TASKS = ('first', 'second')


@dataclasses.dataclass
class Data:
  """Batches of two tasks, from one table of examples."""

  batch_size: int
  num_examples: int | None = 13
  tasks = TASKS
  split, seed = 'train', 3
  task_feature_lengths = {'inputs': 7, 'targets': 5}

  def rows(self, places):
    """The examples at these places; after the last comes the first."""
    rng = np.random.default_rng(11)
    text = lambda n: rng.integers(2, 200, (13, n), np.int32)
    inputs, targets = text(7), text(5)
    inputs[:, 4:] *= (np.arange(13) % 3 > 0)[:, None]
    targets[:, 2:] *= (np.arange(13) % 2 > 0)[:, None]
    here = places % 13
    return batches.assemble(inputs[here], targets[here], here % 2)

  def batches(self):
    first = 0
    while True:
      yield self.rows(np.arange(first, first + self.batch_size))
      first += self.batch_size


def _run(folder, size, **fields):
  config = T5Config(**tiny.SIZES)
  fields = {'vocabulary': 'bytes', 'untrained_rows': 3} | fields
  return neurons.Neurons(str(folder), config, tiny.base(), Data(size), **fields)


def _read(folder):
  return {task: scores.load(folder / f'{task}.npz', 1) for task in TASKS}


@pytest.mark.slow
def test_scores_do_not_depend_on_the_batches(tmp_path):
  """Seven batches of two, of which one row repeats, are one of thirteen."""
  for size in 2, 13:
    neurons.score(_run(tmp_path / str(size), size))
  few, one = _read(tmp_path / '2'), _read(tmp_path / '13')
  for task in TASKS:
    for stack in 'encoder', 'decoder':
      a, b = few[task][0][stack], one[task][0][stack]
      assert a.shape == (1, 11) and (a > 0).all()
      np.testing.assert_allclose(a, b, rtol=1e-5)
  about = one['first'][1]
  assert (about['examples'], one['second'][1]['examples']) == (7, 6)
  assert about['base_digest'] == tiny.trained().summary['base_digest']
  assert about['split'] == 'train' and about['prompt_digest']
  assert not np.allclose(
    one['first'][0]['encoder'], one['second'][0]['encoder']
  )


@pytest.mark.slow
def test_means_of_an_example_alone():
  """No other example and no padding moves the scores of an example."""
  model = models.make('both')
  flat, rows = models.initial(model), models.batch(extra=2)
  run = jax.jit(lambda batch: neurons.example_means(model, flat, batch))
  whole = run(rows)
  assert whole['encoder'].shape == (2, 3, models.F)
  assert whole['decoder'].shape == (3, 3, models.F)
  turned = run({name: x[::-1] for name, x in rows.items()})
  tight = run(models.batch())
  for stack in whole:
    np.testing.assert_allclose(
      turned[stack][:, ::-1], whole[stack], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(tight[stack], whole[stack], rtol=1e-5, atol=1e-6)


def test_bad_input(tmp_path):
  def fails(text, **fields):
    with pytest.raises(UserError, match=text):
      neurons.score(_run(tmp_path, 2, **fields))

  fails('UNTRAINED_ROWS is 3 and there is a PROMPT_FILE', prompt_file='a.npy')
  fails('UNTRAINED_ROWS is -3; expected 0 or more', untrained_rows=-3)
  fails('MAX_EXAMPLES is 0; expected at least 1', max_examples=0)
  files = {'first': 'a.npy'}
  fails(
    "has prompts for first; expected one for 'second' too",
    prompt_file=files,
    untrained_rows=0,
  )
  alone = dataclasses.replace(T5Config(**tiny.SIZES), num_encoder_layers=0)
  run = _run(tmp_path, 2)
  run.config = alone
  with pytest.raises(UserError, match='The model is decoder-only'):
    neurons.score(run)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_task_without_an_example(tmp_path):
  with pytest.raises(UserError, match="of the first 1 examples is of 'second'"):
    neurons.score(_run(tmp_path, 1, max_examples=1))


def test_scores_of_another_prompt_are_not_written_over(tmp_path):
  run = _run(tmp_path, 13)
  about = neurons._sidecar(run, *neurons._model(run, TASKS))
  path = tmp_path / 'second.npz'
  means = {'encoder': np.ones((1, 3)), 'decoder': np.ones((1, 3))}
  scores.save(path, means, about)
  neurons._check_whose(path, about)  # the same again
  scores.save(path, means, {**about, 'prompt_digest': 'other'})
  with pytest.raises(UserError, match='prompt_digest other.*another SCORES_DI'):
    neurons.score(run)
