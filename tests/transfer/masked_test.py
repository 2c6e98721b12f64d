"""Masked neurons: what is scored, and the command."""

import json
import types

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from prompt_jax.transfer import grid, masked, shelf
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

    def score(mask, masks_of=masks_of):
      masks_of.append(mask.tobytes())
      return float(len(masks_of))

    (row,) = masked._of_task(heard, own, score, experiment)['masked']
    assert heard.names[own] not in row['other'] and len(row['other']) == 2
    seen[own] = tuple(row['other'])
    kept += masks_of[1:4]  # after the own mask: the random ones
  assert len({*seen.values()}) > 2  # not the same two for all
  assert len({*kept}) == 3 * 7


def test_fewer_masks_than_none():
  with pytest.raises(UserError, match='--others -1; expected numbers of masks'):
    masked.Experiment(others=-1)


def test_a_task_without_a_prompt(prompts):
  held = shelf.read(prompts).only(small.tasks()[:1])
  with pytest.raises(UserError, match='no prompt of'):
    masked.run(small.base(), held, small.tasks()[1:], None, small.settings())
