"""`prompt-jax transfer project`: the objective its flags mean, and fit."""

import argparse

import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import project_action


def parsed(*more):
  parser = argparse.ArgumentParser()
  project_action.flags(parser)
  given = ['--base', 'b', '--prompts', 'p', '--output', 'o', '--tasks', 't']
  return parser.parse_args([*given, *more])


def objective(*more):
  return project_action._objective(parsed(*more))


def checked(*more):
  args = parsed(*more)
  project_action._check_given(args, project_action._objective(args))
  return args


def test_target_prompts_mean_their_distance():
  assert objective() == 'task'
  assert objective('--target_prompts', 'x') == 'distance'
  assert objective('--target_prompts', 'x', '--objective', 'both') == 'both'


@pytest.mark.parametrize(
  ('more', 'words'),
  [
    (['--objective', 'both'], 'is both and there are no --target_prompts'),
    (['--objective', 'task', '--target_prompts', 'x'], 'expected none'),
  ],
)
def test_an_objective_without_its_prompts(more, words):
  with pytest.raises(UserError, match=words):
    objective(*more)


DISTANCE = ('--target_prompts', 'x')
BOTH = (*DISTANCE, '--objective', 'both')


@pytest.mark.parametrize(
  ('more', 'words'),
  [
    (['--weight', '1'], r'is task, .*not read --weight \(read by both\)'),
    ([*DISTANCE, '--weight', '1'], 'is distance, which does not read --weight'),
    (
      [*DISTANCE, '--eval_period', '0'],
      r'--eval_period \(read by task or both',
    ),
    ([*DISTANCE, '--batch_size', '64'], 'does not read --batch_size'),
    ([*DISTANCE, '--activation_dtype', 'float32'], '--activation_dtype'),
    ([*BOTH, '--metric', 'f1'], r'--metric \(read by none: `projected` reads'),
    (['--how', 'first_token'], 'expected rank or generate, the ways in which'),
  ],
)
def test_flags_that_the_objective_does_not_read(more, words):
  """Whether or not it is the default that is given."""
  with pytest.raises(UserError, match=words):
    checked(*more)


def test_all_such_flags_are_named_at_once():
  with pytest.raises(UserError, match='--weight .*, --eval_period .*distance'):
    checked(*DISTANCE, '--eval_period', '5', '--weight', '0.1')


def test_what_is_left_out_has_its_default():
  for more in (), DISTANCE, BOTH:
    args = checked(*more)
    assert (args.weight, args.eval_period, args.batch_size) == (1, 0, 64)
    assert (args.activation_dtype, args.metric) == ('float32', None)
  args = checked(*BOTH, '--weight', '3', '--batch_size', '5')
  assert (args.weight, args.batch_size) == (3, 5)


@pytest.mark.parametrize('more', [(), DISTANCE, BOTH])
def test_how_tasks_are_read_may_be_said_to_all(more):
  """One line of such flags goes to all actions and objectives."""
  shown = ['--split', 'test', '--max_examples', '3', '--how', 'rank']
  shown += ['--target_length', '5', '--input_length', '7', '--module', 'm']
  args = checked(*more, *shown)
  assert (args.split, args.how, args.target_length) == ('test', 'rank', 5)
