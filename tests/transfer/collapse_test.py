"""Collapse: ratios of sets that have and have not, and the warning."""

import numpy as np
import pytest

from prompt_jax.transfer import collapse, shelf
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.projector import Projector
from tests.shared import shared

S, P, H = 5, 3, 7


def prompts(noise=1.0, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(P, H)) + noise * rng.normal(size=(S, P, H))


def test_formula():
  rows = prompts().reshape(S, -1)
  apart = np.mean([((x - rows.mean(0)) ** 2).sum() for x in rows])
  wanted = apart / np.mean([(x**2).sum() for x in rows])
  found = collapse.variance_ratio(rows.reshape(S, P, H))
  np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_norm_that_follows_the_source_is_no_direction():
  one = prompts(0)
  scaled = one * np.geomspace(1, 1e6, S)[:, None, None]
  assert collapse.variance_ratio(scaled) > 0.5
  assert collapse.direction_ratio(scaled) < 1e-12
  said = '\n'.join(collapse.verdict(collapse.statistics(scaled)))
  assert 'WARNING: the projector has collapsed' in said


def test_unrelated_prompts_draw_no_warning():
  lines = collapse.verdict(collapse.statistics(prompts()))
  assert len(lines) == 1 and 'outputs of 5 sources' in lines[0]
  few = collapse.verdict(collapse.statistics(prompts()[:2]))
  assert 'too few sources' in few[1]


def test_input_gain_of_a_linear_map():
  module = Projector(P, H, None, norm=False, activation='relu')
  flat = projectors.initial(module, (P, H))
  flat['second/kernel'] = 3 * np.eye(P * H, dtype=np.float32)
  flat['second/bias'] = np.full(P * H, 1e3, np.float32)  # all units open
  found = collapse.input_gain(module, flat, prompts())
  np.testing.assert_allclose(found, 3, rtol=0.05)
  flat['second/kernel'] *= 0
  assert collapse.input_gain(module, flat, prompts()) == 0


def test_controls_are_of_other_sources():
  places = collapse.shuffled(S)
  assert sorted(places) == list(range(S)) and (places != np.arange(S)).all()
  big = prompts(seed=1).repeat(101, axis=1) * 3 + 5
  drawn = collapse.noise(big)
  np.testing.assert_allclose(drawn.mean(), big.mean(), rtol=0.05)
  np.testing.assert_allclose(drawn.std(), big.std(), rtol=0.05)
  assert np.isnan(collapse.variance_ratio(np.zeros((2, P, H))))


@pytest.mark.parametrize(
  'tasks, wanted',
  [
    (['IMDB', 'SST2', 'laptop', 'restaurant'], 1e-8),
    (['MNLI', 'QNLI', 'snli'], 1e-6),
  ],
)
def test_released_projectors_have_collapsed(tasks, wanted):
  folder = shared('transfer_data')
  held = shelf.read(folder / 'projected_t5_base_to_roberta_base.npz')
  found = collapse.statistics(held.only(tasks).prompts)
  assert found['variance_ratio'] < wanted
  assert found['direction_ratio'] < wanted
  assert any('WARNING' in line for line in collapse.verdict(found))
