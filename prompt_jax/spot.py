"""SPoT: which saved prompts resemble a target's, and a start made of them.

    average:  sim(p, q) = cos(mean_i p_i, mean_j q_j)
    tokens:   sim(p, q) = 1/(P P) sum_ij cos(p_i, q_j)

    start = sum_k w_k prompt_k      over the `top` most similar, sum_k w_k = 1

The embedding of a task is its prompt after a short training, 10,000 steps in
the paper: prompts/<step>/<task>.npy of a run; `step` finds them below a folder
of runs. methods/spot.gin trains on from the start. Best of top k is a sweep
from each of the first k prompts, whose SWEEP_STARTS are printed; a multi-task
mixture of top k is methods/prompt.gin trained on those tasks and the target
together, and then methods/spot.gin from that prompt.
Source: Vu et al. 2022, section 3. Departures: none; the paper released no code
for this.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from prompt_jax import export, params
from prompt_jax.errors import UserError
from prompt_jax.prompts import attached, saved
from prompt_jax.typing import Array, Float

SIMILARITIES = ('tokens', 'average')
COMBINATIONS = ('best', 'weighted', 'mean')
# What a sidecar says of where a prompt belongs, and what silence means.
_BASE = {'base_digest': None, 'vocabulary_digest': None}
_PLACE = {'stack': 'encoder', 'depth': 1}


class Source(NamedTuple):
  """A saved prompt and how much it resembles the target's."""

  path: pathlib.Path
  score: float  # in [-1, 1]
  prompt: np.ndarray  # float32[P,H]
  sidecar: dict[str, Any]  # empty where there is none


def similarity(
  one: Float[Array, 'P H'],
  other: Float[Array, 'P H'],
  kind: str = 'tokens',
) -> float:
  """How much two prompts resemble each other; the order of rows is unread.

      average:  cos(mean_i p_i, mean_j q_j)
      tokens:   mean_ij cos(p_i, q_j)

  Args:
    one, other: prompts of one width.
    kind: 'tokens' or 'average'. Only with 'average' is a prompt's similarity
      with itself always 1.
  Returns: a number in [-1, 1]; nan where a row (for 'average': the mean of
    the rows) is zero, whose cosine is not defined.
  Raises: UserError for another kind.
  Source: Vu et al. 2022, section 3. Departures: none.
  """
  _check_word('similarity', kind, SIMILARITIES)
  summaries = []
  for prompt in (one, other):
    rows = np.asarray(prompt, np.float64)
    if kind == 'average':
      rows = rows.mean(axis=0, keepdims=True)  # [1,H]
    with np.errstate(invalid='ignore'):  # 0/0 is the nan that is returned
      rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    summaries.append(rows.mean(axis=0))
  # the mean of all products is the product of the means
  return float(summaries[0] @ summaries[1])


def rank(
  target: str | os.PathLike,
  folder: str | os.PathLike,
  kind: str = 'tokens',
  allow_other_base: bool = False,
  step: int | None = None,
) -> list[Source]:
  """The prompts of a folder, most similar to the target's first.

  Args:
    target: saved prompt of the target task, left out if it is in the folder.
    folder: holds saved prompts as *.npy; folders in it are not searched.
    kind: see `similarity`.
    allow_other_base: compare prompts of other bases and vocabularies too.
    step: of runs below the folder: their prompts/<step>/*.npy, instead.
  Returns: one `Source` a prompt; equal scores by name.
  Raises: UserError if there is no prompt, or one cannot be read, is of
    another shape, place or base, or has no cosine.
  """
  _check_word('similarity', kind, SIMILARITIES)
  target = pathlib.Path(target)
  wanted, sidecar = saved.load(target)
  first = Source(target, 1.0, wanted, sidecar or {})
  found = []
  for path in _listed(pathlib.Path(folder), target, step):
    prompt, sidecar = saved.load(path)
    source = Source(path, 0.0, prompt, sidecar or {})
    _check_shape(source, first)
    score = similarity(wanted, prompt, kind)
    if np.isnan(score):
      raise UserError(_no_cosine(wanted, target, path, kind))
    found.append(source._replace(score=score))
  _check_alike([first, *found], _PLACE, 'Move the others to another folder.')
  if not allow_other_base:
    advice = (
      'Prompts of different bases do not share a space: move the others to '
      'another folder, or give --allow_other_base to compare them all the same.'
    )
    _check_alike([first, *found], _BASE, advice)
  return sorted(found, key=lambda each: (-each.score, each.path.name))


def weights(scores: Sequence[float], how: str) -> np.ndarray:
  """The share of each prompt in the start.

      best:      1, 0, 0, ...
      weighted:  w_k = score_k / sum_l score_l
      mean:      w_k = 1/K

  Args:
    scores: similarities, the highest first; at least one.
    how: 'best', 'weighted' or 'mean'.
  Returns: float64[K] that sums to 1.
  Raises: UserError for another word, or if a score is not positive and the
    weights are to be proportional to the scores.
  Source: Vu et al. 2022, section 3. Departures: 'mean' is not there.
  """
  _check_word('combine', how, COMBINATIONS)
  scores = np.asarray(scores, np.float64)
  if how == 'best':
    return np.eye(len(scores))[0]
  if how == 'mean':
    return np.full(len(scores), 1 / len(scores))
  if scores.min() <= 0:
    positive = int((scores > 0).sum())
    raise UserError(
      f'The similarities {[round(float(s), 4) for s in scores]} cannot be '
      'weights; expected all of them to be positive. Give '
      + (f'--top={positive}, ' if positive else '')
      + '--combine=mean or --combine=best.'
    )
  return scores / scores.sum()


def write_start(
  target: str | os.PathLike,
  folder: str | os.PathLike,
  output: str | os.PathLike,
  *,
  kind: str = 'tokens',
  top: int = 3,
  combine: str = 'best',
  allow_other_base: bool = False,
  step: int | None = None,
) -> list[str]:
  """Ranks the prompts of a folder and saves what the first of them make.

  Args:
    target, folder, kind, allow_other_base, step: see `rank`.
    output: the .npy file to write; its sidecar names the prompts, their
      similarities and weights.
    top: K, prompts that `combine` sees; all of them if there are fewer.
    combine: see `weights`.
  Returns: the ranking as lines of a table, what a sweep from each of several
    is to be told, then the file written.
  Raises: UserError as `rank` and `weights`, if top < 1, or if `output` is one
    of the prompts read (nothing is written).
  """
  if top < 1:
    raise UserError(
      f'--top={top} leaves no prompt; expected at least 1. Give --top=3, say.'
    )
  ranked = rank(target, folder, kind, allow_other_base, step)
  read = [pathlib.Path(target), *(source.path for source in ranked)]
  if any(pathlib.Path(output).resolve() == each.resolve() for each in read):
    raise UserError(
      f'{output} is one of the prompts that are compared; expected a new name '
      'for the start. Give another --output.'
    )
  chosen = ranked[:top]
  shares = weights([source.score for source in chosen], combine)
  prompts = np.stack([source.prompt for source in chosen])  # [K,P,H]
  start = np.einsum('k,kph->ph', shares, prompts).astype(np.float32)
  sources = [
    {'file': str(s.path), 'similarity': s.score, 'weight': float(share)}
    for s, share in zip(chosen, shares, strict=True)
  ]
  sidecar = {
    'method': 'SPoT',
    'target': str(target),
    'similarity': kind,
    'combine': combine,
    'sources': sources,
    'length': start.shape[0],
    'width': start.shape[1],
    'mean_row_norm': float(np.linalg.norm(start, axis=1).mean()),
    'versions': export.versions(),
    **_shared(chosen),
  }
  saved.save(output, start, sidecar)
  return [*_table(ranked, shares), *_starts(chosen), str(output)]


def flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `prompt-jax spot`."""
  add = parser.add_argument
  add('--target', required=True, help='prompt of a short run on the task')
  add('--prompts', required=True, help='folder of saved prompts, *.npy')
  add('--step', type=int, help='of runs below --prompts, whose prompts to take')
  add('--output', required=True, help='the start, for methods/spot.gin')
  add('--similarity', choices=SIMILARITIES, default='tokens')
  add('--top', type=int, default=3, help='prompts to combine, at most')
  add('--combine', choices=COMBINATIONS, default='best')
  add(
    '--allow_other_base',
    action='store_true',
    help='compare prompts of other bases too',
  )


def run(args: argparse.Namespace) -> list[str]:
  """`prompt-jax spot`. Returns: what it prints."""
  return write_start(
    args.target,
    args.prompts,
    args.output,
    kind=args.similarity,
    top=args.top,
    combine=args.combine,
    allow_other_base=args.allow_other_base,
    step=args.step,
  )


def _table(ranked, shares) -> list[str]:
  """Rank, similarity, weight and file of every prompt."""
  lines = ['rank  similarity  weight  prompt']
  for i, source in enumerate(ranked):
    share = f'{shares[i]:.4f}' if i < len(shares) else '-'
    lines.append(f'{i + 1:4d}  {source.score:10.4f}  {share:>6}  {source.path}')
  return lines


def _starts(chosen: Sequence[Source]) -> list[str]:
  """What a sweep from each of several prompts is told."""
  each = [str(source.path) for source in chosen]
  said = [f'best of {len(each)}: --gin.SWEEP_STARTS="{each}"']
  return said if len(each) > 1 else []


def _listed(folder, target, step: int | None) -> list[pathlib.Path]:
  """The prompts of a folder but the target's, by name."""
  if not folder.is_dir():
    raise UserError(
      f'{folder} is not a folder; expected one that holds saved prompts, such '
      'as sst2.npy. Give --prompts=FOLDER.'
    )
  where = '*.npy' if step is None else f'prompts/{step}/*.npy'
  paths = sorted(folder.glob(where) if step is None else folder.rglob(where))
  paths = [path for path in paths if not path.samefile(target)]
  if not paths:
    raise UserError(
      f'There is no {where} in {folder} to compare with {target}; expected '
      'at least one saved prompt of another task. A run writes them to '
      'MODEL_DIR/prompts/<step>/<task>.npy: give the folder of your MODEL_DIRs '
      'and --step=<step>, or a folder of the files.'
    )
  return paths


def _check_shape(source: Source, target: Source) -> None:
  """Raises unless a prompt is as long and wide as the target's."""
  found, wanted = list(source.prompt.shape), list(target.prompt.shape)
  if found != wanted:
    raise UserError(
      f'{source.path} is a prompt {found}; expected {wanted}, the length and '
      f'width of the target {target.path}. Move it to another folder, or take '
      'for the target the prompt of a run of that length on that base.'
    )


def _check_alike(prompts: Sequence[Source], keys, advice: str) -> None:
  """Raises unless the sidecars that speak of `keys` agree."""
  for key, default in keys.items():
    said = {}
    for each in prompts:
      value = each.sidecar.get(key, default)
      if value is not None:
        said.setdefault(value, each.path)
    if len(said) > 1:
      (one, first), (two, second), *_ = said.items()
      raise UserError(
        f'{second} has {key} {two} and {first} has {one}; expected the same '
        f'of the target and of all prompts it is compared with. {advice}'
      )


def _shared(sources: Sequence[Source]) -> dict[str, Any]:
  """What the sidecars of some prompts agree on, of base and place."""
  shared = {}
  for key in ('base', *attached.WHERE, *_BASE, *_PLACE):
    said = [s.sidecar[key] for s in sources if key in s.sidecar]
    if said and all(each == said[0] for each in said):
      shared[key] = said[0]
  return shared


def _no_cosine(wanted, target, path, kind) -> str:
  """What to say of a prompt whose cosine is not defined."""
  fault = target if np.isnan(similarity(wanted, wanted, kind)) else path
  what = 'a row' if kind == 'tokens' else 'the mean of the rows'
  other = next(word for word in SIMILARITIES if word != kind)
  return (
    f'In {fault} {what} is zero, which has no cosine; expected a trained '
    f'prompt. Leave it out, or try --similarity={other}.'
  )


def _check_word(name: str, word: str, words: Sequence[str]) -> None:
  """Raises unless a word is one of those expected."""
  if word not in words:
    raise UserError(
      f'{name} is {word!r}; expected one of {", ".join(words)}. Nearest: '
      f'{params.nearest(str(word), words, 1)[0]!r}.'
    )


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('spot')
