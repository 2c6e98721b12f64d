"""Collapse: whether a projector still looks at the prompt it is given.

    variance ratio    mean |p_s - mean p|^2 / mean |p_s|^2     over sources s
    direction ratio   the same after each p_s is scaled to norm 1
    gap shuffled      score with the right source - with another task's
    gap random        score with the right source - with N(mean, std) of it
    input gain        |proj(x + e u) - proj(x)| / (e |u|), u random

1 is unrelated outputs, 0 a constant: "transfer" is then one trained prompt in
disguise. A norm that follows the source is no information where the base
normalises its input, hence the second ratio. Both gaps near 0 say the same of
scores.
Source: measured on the prompts that Su et al. 2022 released: 3e-9 and 1e-7
for projectors tuned on one task, 0.8 for trained prompts. At their rate a
single step moves every hidden unit by the rate times |x|_1, hundreds where
about 1 is usual, and the sign of that step decides the rest.
"""

from collections.abc import Mapping
import itertools
import math
from typing import Any

import numpy as np

from prompt_jax.transfer import projector as projectors
from prompt_jax.typing import Array, Float

WARN_BELOW = 0.01
_STEP = 1e-3  # share of |x| that the input moves for its gain


def variance_ratio(prompts: Float[Array, 'S P H']) -> float:
  """mean |p_s - mean p|^2 / mean |p_s|^2, over whole prompts; nan of zeros."""
  rows = np.asarray(prompts, np.float64).reshape(len(prompts), -1)
  total = (rows**2).sum(axis=1).mean()
  apart = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
  return float(apart / total) if total else float('nan')


def direction_ratio(prompts: Float[Array, 'S P H']) -> float:
  """`variance_ratio` of prompts scaled to norm 1."""
  return variance_ratio(_directions(prompts)[:, None])


def cosines(prompts: Float[Array, 'S P H']) -> np.ndarray:
  """cos of every pair of different prompts, as one vector."""
  unit = _directions(prompts)
  pairs = itertools.combinations(range(len(unit)), 2)
  return np.asarray([unit[i] @ unit[j] for i, j in pairs])


def input_gain(
  projector, flat: Mapping, prompts: Float[Array, 'S P G'], seed: int = 0
) -> float:
  """Mean over sources of |proj(x + e u) - proj(x)| / (e |u|).

  e |u| is a thousandth of |x|, in one random direction a source.
  """
  x = np.asarray(prompts, np.float64)
  u = np.random.default_rng(seed).normal(size=x.shape)
  norm = lambda each: np.sqrt((each**2).sum(axis=(1, 2), keepdims=True))
  moved = u / norm(u) * np.maximum(norm(x), 1e-12) * _STEP
  run = lambda each: projectors.apply(projector, flat, each).astype(np.float64)
  return float((norm(run(x + moved) - run(x)) / norm(moved)).mean())


def noise(prompts: Float[Array, 'S P G'], seed: int = 0) -> np.ndarray:
  """Random sources N(mean, std) of each source's own entries."""
  rng = np.random.default_rng(seed)
  x = np.asarray(prompts, np.float64)
  over = dict(axis=(1, 2), keepdims=True)
  drawn = rng.normal(size=x.shape) * x.std(**over) + x.mean(**over)
  return drawn.astype(np.float32)


def shuffled(count: int) -> np.ndarray:
  """Which other source each gets: the next, so that none keeps its own."""
  return np.roll(np.arange(count), -1)


def statistics(prompts: Float[Array, 'S P H']) -> dict[str, float]:
  """Both ratios and the range of the cosines of a set of prompts."""
  cos, norms = cosines(prompts), np.linalg.norm(_flat(prompts), axis=1)
  have = len(cos) > 0
  return {
    'prompts': len(prompts),
    'variance_ratio': variance_ratio(prompts),
    'direction_ratio': direction_ratio(prompts),
    'cos_min': float(cos.min()) if have else float('nan'),
    'cos_mean': float(cos.mean()) if have else float('nan'),
    'cos_max': float(cos.max()) if have else float('nan'),
    'norm_min': float(norms.min()),
    'norm_max': float(norms.max()),
  }


def verdict(found: Mapping[str, float]) -> list[str]:
  """What to say of `statistics`: the numbers, and a warning where due."""
  lines = [
    f'outputs of {found["prompts"]} sources: variance ratio '
    f'{found["variance_ratio"]:.2e}, direction ratio '
    f'{found["direction_ratio"]:.2e}, cosine {found["cos_min"]:.4f} .. '
    f'{found["cos_max"]:.4f}'
  ]
  if found['prompts'] < 3:
    lines.append(
      'too few sources to tell a collapse: project at least 3, among them '
      'some it was not trained on'
    )
  low = min(found['variance_ratio'], found['direction_ratio'])
  if found['prompts'] > 1 and low < WARN_BELOW:
    lines.append(
      f'WARNING: the projector has collapsed (ratio {low:.1e} below '
      f'{WARN_BELOW}): it makes one prompt whatever its source is. Train on '
      'several tasks, with --scaled or a smaller --rate.'
    )
  return lines


def report(found: Mapping[str, Any]) -> list[str]:
  """All that is known of a collapse, as lines.

  Args: found: as of `projection.spread`, with the gaps where scores are known.
  """
  gaps = [
    f'right source minus {word}: {found[key]:+.2f} points'
    for key, word in (
      ('gap_shuffled', "another task's"),
      ('gap_noise', 'a random one'),
    )
    if not math.isnan(found.get(key, math.nan))
  ]
  gain = found['input_gain'], found['input_gain_at_start']
  return [
    *verdict(found),
    *gaps,
    f'input gain {gain[0]:.3g}, at its initialisation {gain[1]:.3g}',
    f'{found["parameters"]:,} parameters, trained on {found["trained_on"]}',
  ]


def _flat(prompts) -> np.ndarray:
  return np.asarray(prompts, np.float64).reshape(len(prompts), -1)


def _directions(prompts) -> np.ndarray:
  """[S, P H] of norm 1; zeros stay zeros."""
  rows = _flat(prompts)
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  return rows / np.where(norms > 0, norms, 1)
