"""A run in stages that dies around their boundaries ends as one that lives."""

import signal

import numpy as np
import pytest

from prompt_jax.training.checkpoint import Checkpoints
from tests import progressive
from tests.resume_test import ended, files, points, start  # noqa: F401

NAME = 'struck_stages'
STEPS = progressive.STAGES['TRAIN_STEPS']
SETTINGS = dict(EVAL_PERIOD=3, DROPOUT_RATE=0.1, BEST_METRIC='accuracy')
# (point, exit code, newest checkpoint afterwards); each goes on from the last.
# Stages begin after updates 2 and 5.
LIVES = [
  ('kill-step-2', -signal.SIGKILL, None),  # at the end of the first stage
  ('term-step-2', 0, 2),  # saved between the first two
  ('kill-save-3', -signal.SIGKILL, 2),  # at the beginning of the second
  ('term-step-5', 0, 5),  # saved between the last two
  ('kill-step-6', -signal.SIGKILL, 5),  # at the beginning of the last
]


def flags(folder, model_dir):
  names, given = progressive.command(folder, model_dir, **SETTINGS)
  files = [f'--gin_file={name}' for name in names]
  return [*files, *(f'--gin.{binding}' for binding in given)]


@pytest.mark.slow
def test_killed_around_boundaries(start, tmp_path):  # noqa: F811
  progressive.write(tmp_path / 'files', NAME)
  cache, whole, cut = (tmp_path / n for n in ('cache', 'whole', 'cut'))
  undisturbed = start(
    'prompt_jax.train', *flags(tmp_path / 'files', whole), cache=cache
  )
  ended(undisturbed, 0)
  command = flags(tmp_path / 'files', cut)
  for point, code, newest in LIVES:
    life = start(
      'tests.interrupted_runner', point, 'train', *command, cache=cache
    )
    ended(life, code)
    steps = Checkpoints(str(cut / 'checkpoints')).steps()
    assert (steps[-1] if steps else None) == newest, point
  last = start('prompt_jax.train', *command, cache=cache)
  assert 'going on at step 5' in ended(last, 0)
  name = f'prompts/{STEPS}/{NAME}.npy'
  assert (cut / name).read_bytes() == (whole / name).read_bytes()
  assert (
    np.load(whole / name) != np.load(whole / f'prompts/3/{NAME}.npy')
  ).any()
  assert points(cut) == points(whole)
  assert files(cut / 'eval') == files(whole / 'eval')
