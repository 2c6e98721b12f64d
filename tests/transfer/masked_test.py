"""Masked neurons: what is scored, and the command."""

import json
import types

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from prompt_jax.transfer import answers, grid, masked, masks, shelf
from tests import tiny
from tests.transfer import small


@pytest.fixture(scope='module')
def prompts(tmp_path_factory):
  return small.write(tmp_path_factory.mktemp('prompts'))


def test_scores_are_those_of_the_masked_model(prompts):
  base, held, settings = small.base(), shelf.read(prompts), small.settings()
  model = masked.Masked(base, held, 'decoder')
  task = small.tasks()[1]
  each = grid.examples_of(task, base, settings)
  shape = (base.config.num_decoder_layers, base.config.d_ff)
  flat = model.parameters(np.zeros(shape))
  path = 'decoder/layers_0/mlp/hidden_insert/mask'
  assert flat[path].shape == shape[1:] and not flat[path].any()
  whole = model.score(each, 1, np.ones(shape), settings)
  from prompt_jax.transfer import cross_task

  table = cross_task.evaluate(base, held, [task], None, settings)
  assert whole == table.score(task, task)


@pytest.mark.parametrize('how', answers.HOW)
@pytest.mark.parametrize('stack', ['decoder', 'encoder'])
def test_masks_together_score_as_each_alone(prompts, monkeypatch, how, stack):
  """Inputs are encoded once for all masks of a decoder, with one result."""
  base, held = small.base(), shelf.read(prompts)
  settings = small.settings(how=how)
  model = masked.Masked(base, held, stack)
  each = grid.examples_of(small.tasks()[0], base, settings)
  shape = (getattr(base.config, f'num_{stack}_layers'), base.config.d_ff)
  kept = [np.ones(shape), *(masks.random(shape, 0.5, n) for n in range(2))]
  kept.append(np.zeros(shape))
  passes, real = [], answers.Answerer.encoded

  def count(*args):
    passes.append(args)
    return real(*args)

  monkeypatch.setattr(answers.Answerer, 'encoded', count)
  found = model.scores(each, 1, kept, settings)
  batches = -(-small.EXAMPLES // small.BATCH)
  assert len(passes) == (batches if stack == 'decoder' else 0)
  texts = grid.answered_under(
    model._answerer, [*map(model.parameters, kept)], each, 1, how, bool(passes)
  )
  for mask, score, together in zip(kept, found, texts, strict=True):
    flat = model.parameters(mask)
    ((_, said),) = grid.answered(model._answerer, flat, each, [1], how)
    assert together == said
    assert score == grid.headline(each.task, grid.metrics(each, said), None)


def test_command(prompts, tmp_path, capsys):
  argv = ['transfer', 'neurons', '--base', tiny.base(), '--vocabulary', 'bytes']
  argv += ['--prompts', str(prompts), '--tasks', *small.tasks()]
  argv += ['--output', str(tmp_path), '--input_length', '13']
  argv += ['--target_length', '5', '--ratios', '0', '0.5', '--draws', '2']
  assert cli.main([*argv, '--batch_size', str(small.BATCH)]) == 0
  assert 'whole' in capsys.readouterr().out
  found = json.loads((tmp_path / 'masked.json').read_text())
  for task, said in found.items():
    none, half = said['masked']
    assert none['own'] == none['random'][0] == said['none']  # ratio 0
    assert len(half['random']) == 2
    assert list(half['other']) == [t for t in small.tasks() if t != task]
  with np.load(tmp_path / 'neurons.npz') as stored:
    assert f'{small.tasks()[0]}/after' in stored.files
  assert cli.main([*argv, '--draws', '0']) == 2
  assert '0 random masks were asked for' in capsys.readouterr().err


def test_tasks_draw_their_own_others_and_random_masks():
  rng = np.random.default_rng(7)
  heard = types.SimpleNamespace(
    after=rng.normal(size=(7, 2, 11)), names=tuple('abcdefg')
  )
  seen, kept = {}, []
  experiment = masked.Experiment((0.5,), draws=3, others=2, seed=5)
  for own in range(7):
    masks_of = []

    def scores(kept, masks_of=masks_of):
      masks_of += [mask.tobytes() for mask in kept]
      return [float(n) for n in range(len(kept))]

    found = masked._of_task(heard, own, scores, experiment)
    (row,) = found['masked']
    assert (found['none'], row['own'], row['random']) == (0, 1, [2, 3, 4])
    assert [*row['other'].values()] == [5, 6]
    assert heard.names[own] not in row['other'] and len(row['other']) == 2
    seen[own] = tuple(row['other'])
    kept += masks_of[2:5]  # after the whole and the own mask
  assert len({*seen.values()}) > 2  # not the same two for all
  assert len({*kept}) == 3 * 7


def test_fewer_masks_than_none():
  with pytest.raises(UserError, match='--others -1; expected numbers of masks'):
    masked.Experiment(others=-1)


def test_a_task_without_a_prompt(prompts):
  held = shelf.read(prompts).only(small.tasks()[:1])
  with pytest.raises(UserError, match='no prompt of'):
    masked.run(small.base(), held, small.tasks()[1:], None, small.settings())
