"""Projection: what a projector makes of prompts, and what that is worth.

    projected   the task's own source prompt, projected
    shuffled    another task's source
    noise       a random source
    random      a random prompt, not projected
    own         the target base's own prompt

all on the same task, without training; `collapse` says why they are close.
Source: Su et al. 2022, section 4.2. Departures: the controls.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from prompt_jax import files, params
from prompt_jax.prompts import saved
from prompt_jax.tasks import features
from prompt_jax.transfer import answers, collapse, grid
from prompt_jax.transfer import projector as projectors
from prompt_jax.transfer.base import Base
from prompt_jax.transfer.cross_model import check_width
from prompt_jax.transfer.shelf import RANDOM, Shelf, of, read


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
  """What a projector is worth.

  Attributes:
    prompts: the projected prompts, as a shelf of the target base.
    scores: {task: {'projected', 'shuffled', 'noise', 'random', 'own'}}, in
      percent; what there is.
    diagnostic: numbers of `collapse`, and the mean gaps.
  """

  prompts: Shelf
  scores: Mapping[str, Mapping[str, float]]
  diagnostic: Mapping[str, float]


def project(
  path: str | os.PathLike,
  source: Shelf,
  base: Base,
  allow_other_base: bool = False,
) -> tuple[Shelf, dict[str, Any]]:
  """Projects a shelf of source prompts.

  Args:
    path: projector.npz. source: of the base that it was trained on.
    base: the target.
    allow_other_base: accept sources of another base.
  Returns: (a shelf of the target base, the projector's sidecar).
  Raises: UserError for sources of another shape or base, or another target.
  """
  network, flat, about = projectors.load(path)
  check_width(network, base)
  target = {k: about.get(k) for k in ('base_digest', 'vocabulary_digest')}
  known = (base.digest, base.vocabulary_digest)
  saved.check_base(target, *known, path=path)
  wanted = about.get('source_base_digest')
  if wanted:
    source_of = (wanted, '')
    for name, side in zip(source.names, source.sidecars, strict=True):
      digest = {'base_digest': side.get('base_digest')}
      saved.check_base(
        *(digest, *source_of),
        allow=allow_other_base,
        path=f'The source prompt {name}',
      )
  made = projectors.apply(network, flat, _seen(about, source.prompts))
  sidecar = {'method': 'projected', 'projector': str(path), **base.sidecar()}
  sidecars = tuple({**sidecar, 'task': name} for name in source.names)
  return Shelf(source.names, made, sidecars), about


def _seen(about: Mapping[str, Any], prompts: np.ndarray) -> np.ndarray:
  """What a projector is given: zeros if it was trained on those."""
  blind = about.get('training', {}).get('blind', False)
  return np.zeros_like(prompts) if blind else prompts


def evaluate(
  path: str | os.PathLike,
  base: Base,
  source: Shelf,
  tasks: Sequence[Any],
  output: str | os.PathLike | None = None,
  settings: grid.Settings | None = None,
  own: Shelf | None = None,
  seed: int = 0,
  allow_other_base: bool = False,
) -> Evaluated:
  """Scores a projector on tasks, without training, and looks for a collapse.

  Args:
    path: projector.npz.
    base: the target.
    source: prompts of the source base, those of the tasks among them. Others
      serve the diagnostic; it wants at least 3.
    tasks: names, or FileTasks.
    output: folder for projected.json and prompts/<task>.npy, or None.
    settings: how tasks are read and answered.
    own: prompts of the target base, for comparison; of any length.
    seed: of random sources and the random prompt.
    allow_other_base: accept sources, and prompts for comparison, of another.
  Returns: Evaluated.
  Raises: UserError as `project`; for a task without a source prompt.
  """
  settings = settings or grid.Settings()
  made, about = project(path, source, base, allow_other_base)
  whole, kinds = _compared(path, source, made, seed)
  sets = [grid.examples_of(task, base, settings) for task in tasks]
  names = {}
  for task in (each.task for each in sets):
    source.index(task)  # says which there are
    names[task] = {k: f'{k}/{task}' for k in kinds} | {RANDOM: RANDOM}
  scores = score_each(base, whole, sets, names, settings)
  if own is not None:
    known = {t: {'own': t} for t in names if t in own.names}
    of_own = [each for each in sets if each.task in known]
    given = (base, own, of_own, known, settings, allow_other_base)
    for task, found in score_each(*given).items():
      scores[task] |= found
  diagnostic = spread(path, source, made, about) | _gaps(scores)
  found = Evaluated(made, scores, diagnostic)
  if output is not None:
    _write(found, pathlib.Path(output).expanduser())
  return found


def _compared(path, source: Shelf, made: Shelf, seed: int):
  """(a shelf of all that is scored, the kinds of projected prompts on it)."""
  network, flat, about = projectors.load(path)
  drawn = _seen(about, collapse.noise(source.prompts, seed))
  kinds = {
    'projected': made.prompts,
    'noise': projectors.apply(network, flat, drawn),
  }
  if len(source) > 1:
    kinds['shuffled'] = made.prompts[collapse.shuffled(len(source))]
  rows = {
    f'{kind}/{name}': prompt
    for kind, prompts in kinds.items()
    for name, prompt in zip(source.names, prompts, strict=True)
  }
  return of(rows).plus_random(seed), tuple(kinds)


def _write(found: Evaluated, folder: pathlib.Path) -> None:
  """The projected prompts, and the numbers."""
  made = found.prompts
  for name, about in zip(made.names, made.sidecars, strict=True):
    saved.save(folder / 'prompts' / f'{name}.npy', made.prompt(name), about)
  written = {'scores': found.scores, 'diagnostic': found.diagnostic}
  files.write_json(folder / 'projected.json', written)


def score_each(
  base: Base,
  shelf: Shelf,
  sets,
  names: Mapping,
  settings: grid.Settings,
  allow_other_base: bool = False,
) -> dict[str, dict[str, float]]:
  """Scores some prompts of a shelf on each task.

  Args:
    base, shelf, settings, allow_other_base: as for `evaluate`.
    sets: evaluation sets.
    names: {task: {what it is called: name of the prompt}}.
  Returns: {task: {what it is called: score in percent}}.
  """
  model, flat = base.prompted(shelf, allow_other_base=allow_other_base)
  answerer = answers.Answerer(model, *features.codec(base.vocabulary))
  scores: dict[str, dict[str, float]] = {}
  for each in sets:
    called = names[each.task]
    places = [shelf.index(name) for name in called.values()]
    asked = grid.answered(answerer, flat, each, places, settings.how)
    found = [grid.metrics(each, texts) for _, texts in asked]
    scores[each.task] = {
      kind: grid.headline(each.task, value, settings.metric)
      for kind, value in zip(called, found, strict=True)
    }
  return scores


def spread(path, source: Shelf, made: Shelf, about: Mapping) -> dict[str, Any]:
  """What `collapse` says of a projector without running a model.

  Args:
    path: projector.npz.
    source: prompts of the source base, trained on or not.
    made, about: as `project` returns for them.
  Returns: `collapse.statistics`, 'input_gain', 'input_gain_at_start',
    'parameters' and 'trained_on'.
  """
  network, flat, _ = projectors.load(path)
  fresh = projectors.initial(network, source.prompts.shape[1:])
  return collapse.statistics(made.prompts) | {
    'input_gain': collapse.input_gain(network, flat, source.prompts),
    'input_gain_at_start': collapse.input_gain(network, fresh, source.prompts),
    'parameters': params.count(flat),
    'trained_on': ', '.join(about.get('tasks', ())),
  }


def look(
  path: str | os.PathLike,
  base: Base,
  source: Shelf,
  allow_other_base: bool = False,
) -> list[str]:
  """Whether a projector that has just been trained has collapsed, as lines.

  Args: as for `evaluate`, which scores it too.
  Raises: UserError as `project`.
  """
  made, about = project(path, source, base, allow_other_base)
  by_task = about.get('objective') != 'distance'
  return [
    *(course(pathlib.Path(path).parent / 'run') if by_task else ()),
    *collapse.report(spread(path, source, made, about)),
    "what it scores with another task's source: prompt-jax transfer projected "
    f'--projector {path}',
  ]


def course(run: str | os.PathLike) -> list[str]:
  """The spread of the prompts of a training run, at each of its evaluations.

  Args: run: folder of the run; its prompts/<step>/ are read.
  Returns: a line a step; none for a run of one task, or without prompts.
  """
  steps = pathlib.Path(run, 'prompts').glob('[0-9]*')
  lines = []
  for folder in sorted(steps, key=lambda each: int(each.name)):
    made = read(folder)
    if len(made) > 1:
      found = collapse.statistics(made.prompts)
      lines.append(
        f'step {folder.name}: variance ratio {found["variance_ratio"]:.2e}, '
        f'direction ratio {found["direction_ratio"]:.2e}'
      )
  return lines


def _gaps(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Mean score with the right source, minus that with others; nan of none."""
  found = {}
  for kind in ('shuffled', 'noise'):
    gaps = [s['projected'] - s[kind] for s in scores.values() if kind in s]
    found[f'gap_{kind}'] = float(np.mean(gaps)) if gaps else float('nan')
  return found
