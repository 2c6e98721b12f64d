"""Schedules of stages: shares of a model, steps, and what is refused."""

import functools

import pytest

from prompt_jax import scores
from prompt_jax.errors import UserError
from prompt_jax.inserts import IA3
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import Prompt
from prompt_jax.stages import Schedule, Stage, check_model, growing
from prompt_jax.t5.config import T5Config
from tests import models
from tests.t5.submodel_test import scores_of

LARGE = T5Config(32128, 1024, 64, 2816, 16, 24, 24)  # gin/models
QUARTERS = [0.25, 0.5, 0.75, 1.0]


def test_stages_of_the_paper():
  stages = growing(LARGE, 30_000, QUARTERS, QUARTERS)
  assert stages[:3] == (
    Stage(6, 6, 704, 704, 6000),
    Stage(12, 12, 1408, 1408, 6000),
    Stage(18, 18, 2112, 2112, 6000),
  )
  assert stages[3] == Stage(steps=12_000)
  layers = growing(LARGE, 15_000, QUARTERS, decoder=False)
  assert layers[0] == Stage(encoder_layers=6, steps=3000)
  assert growing(LARGE, 7, widths=[0.5]) == (Stage(None, None, 1408, 1408),)


def test_nothing_asked_is_one_whole_stage():
  assert growing(LARGE, 7) == (Stage(),)
  schedule = Schedule((Stage(),), 7, LARGE)
  assert schedule.is_plain and schedule.described() == {'from step 0': 'all'}
  assert (schedule.starts, schedule.end(0), schedule.at(6)) == ([0], 7, 0)
  assert Schedule((Stage(),), 0, LARGE).end(0) == 0


def test_steps_that_do_not_divide_are_all_made():
  for steps in range(5, 40):
    stages = growing(LARGE, steps, QUARTERS)
    schedule = Schedule(stages, steps, LARGE)
    lengths = [schedule.end(i) - s for i, s in enumerate(schedule.starts)]
    assert sum(lengths) == steps and min(lengths) >= 1
    assert [schedule.at(n) for n in range(steps)] == [
      i for i, length in enumerate(lengths) for _ in range(length)
    ]


def test_small_models_keep_a_layer():
  tiny = models.config(num_encoder_layers=2, num_decoder_layers=1)
  first = growing(tiny, 9, [0.1, 1], [0.01, 1])[0]
  assert first == Stage(1, 1, 1, 1, 3)


def test_what_tells_runs_apart(tmp_path):
  config, told = models.config(), []
  stages = [Stage(1, 2, steps=3), Stage(encoder_mlp_dim=5)]
  for seed in 0, 1:
    file = scores.save(tmp_path / 's.npz', scores_of(config, seed), {})
    told.append(Schedule(stages, 7, config, file).described())
  assert told[0]['from step 0'] == told[1]['from step 0']
  assert told[0]['from step 3'] != told[1]['from step 3']
  assert told[0]['from step 0'].startswith('encoder layers 0 x 17 units')
  # a last stage may go on for longer
  assert Schedule(stages, 9, config, file).described() == told[1]


SHARES = {
  'lengths': (dict(depths=[0.5, 1], widths=[1]), 'expected lists of one len'),
  'none': (dict(depths=[]), 'expected lists of one length'),
  'steps': (dict(depths=[0.5, 1], steps=[3]), 'expected lists of one length'),
  'above 1': (dict(depths=[0.5, 2]), 'STAGE_DEPTHS has the share 2; expected'),
  'zero': (dict(widths=[0, 1]), 'STAGE_WIDTHS has the share 0; expected'),
  'no list': (dict(depths=0.25), 'STAGE_DEPTHS is 0.25; expected a list'),
  'text': (dict(widths=['all']), "has the share 'all'; expected numbers"),
  'too few steps': (dict(depths=QUARTERS), 'TRAIN_STEPS is 3, too few for 4'),
}


@pytest.mark.parametrize('case', SHARES)
def test_shares_that_are_none(case):
  given, text = SHARES[case]
  with pytest.raises(UserError, match=text):
    growing(LARGE, 3, **given)


STEPS = {
  'short': ([3, 3], 'are? steps .*6 together, and TRAIN_STEPS is 7'),
  'long': ([5, 3], '--gin.TRAIN_STEPS=8'),
  'open but full': ([7, None], 'expected them to add up'),
  'zero': ([0, 7], 'expected whole numbers of at least 1'),
  'open first': ([None, 7], 'None in the last alone'),
  'fraction': ([3.5, 3.5], 'expected whole numbers'),
}


@pytest.mark.parametrize('case', STEPS)
def test_steps_that_do_not_add_up(case):
  steps, text = STEPS[case]
  with pytest.raises(UserError, match=text.replace('are? ', '')):
    Schedule([Stage(steps=n) for n in steps], 7, LARGE)


def test_no_stage_at_all():
  with pytest.raises(UserError, match='The run has no stages'):
    Schedule((), 7, LARGE)


def test_narrow_stages_need_scores(tmp_path):
  config = models.config()
  with pytest.raises(UserError, match='SCORES_FILE=None tells no scores'):
    Schedule([Stage(encoder_mlp_dim=5)], 7, config)
  with pytest.raises(UserError, match='does not exist; expected the activat'):
    Schedule([Stage()], 7, config, str(tmp_path / 'none.npz'))


def _refused(model, table, stage, text):
  check_model(model, table, Schedule((Stage(),), 7, model.config))
  with pytest.raises(UserError, match=text):
    check_model(model, table, Schedule((stage,), 7, model.config))


def test_methods_that_a_part_has_no_place_for():
  source, table = functools.partial(Prompt, 6), [('encoder/prompt/.*', 0.3)]
  make = functools.partial(
    PromptEncoderDecoder, models.config(), encoder_prompt=source
  )
  part = Schedule((Stage(1),), 7, models.config())
  check_model(make(), table, part)
  _refused(
    make(inserts=[('.*/key', IA3)]),
    [('.*_insert/.*', 1.0)],
    Stage(1),
    "has inserts .'.*/key'.*expected a method without them",
  )
  _refused(make(), [('.*', 0.1)], Stage(1), 'and .* more inside the layers')
  _refused(
    make(encoder_depth=2), table, Stage(1), 'its first 2 layers.*keeps 1'
  )
