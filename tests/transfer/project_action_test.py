"""`prompt-jax transfer project`: which objective its flags mean."""

import argparse

import pytest

from prompt_jax.errors import UserError
from prompt_jax.transfer import project_action


def objective(*more):
  parser = argparse.ArgumentParser()
  project_action.flags(parser)
  given = ['--base', 'b', '--prompts', 'p', '--output', 'o', '--tasks', 't']
  return project_action._objective(parser.parse_args([*given, *more]))


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
