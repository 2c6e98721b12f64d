"""Training sets of a few rows: drawn by seed, even over the classes."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib

import numpy as np

from prompt_jax.errors import UserError
from prompt_jax.tasks import local, table


def choose(targets: Sequence[str], n: int, seed: int) -> list[int]:
  """n rows, as even over the classes as they allow, ascending.

  The rows of every class stand in a random order, and the classes too; then
  the first row of each class is taken, the second of each, until n are. A
  larger n therefore only adds rows.

  Args:
    targets: the class of each row.
    n: rows in all.
    seed: of the draw, nothing else.
  Raises: UserError if there are fewer rows than n.
  """
  if not 1 <= n <= len(targets):
    raise UserError(
      f'{n} training rows were asked for; expected 1 to {len(targets)}, as '
      'many as the train split has.'
    )
  order = np.random.default_rng(seed).permutation(len(targets))
  seen: dict[str, int] = {}
  ranked = []
  for place, row in enumerate(order):
    target = targets[row]
    turn = seen[target] = seen.get(target, -1) + 1
    ranked.append((turn, place, int(row)))
  return sorted(row for _, _, row in sorted(ranked)[:n])


def halves(
  targets: Sequence[str], rows: Sequence[int]
) -> tuple[list[int], list[int]]:
  """Two halves of some rows, each class parted between them."""
  ordered = sorted(rows, key=lambda row: (targets[row], row))
  return sorted(ordered[::2]), sorted(ordered[1::2])


def drawn(
  task: local.FileTask,
  name: str,
  parts: Mapping[str, Sequence[int]],
  folder: str | os.PathLike,
  keep: Sequence[str] = (),
) -> local.FileTask:
  """A task over some rows of another one's train split.

  Args:
    task: where the rows come from, a .tsv file.
    name: of the new task.
    parts: {split of the new task: rows of the old train split}.
    folder: where its files go.
    keep: splits that are as they were.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  rows = [row for _, row in table.rows(pathlib.Path(task.files['train']))]
  files = {split: task.files[split] for split in keep}
  for split, chosen in parts.items():
    lines = ['\t'.join(rows[0]), *('\t'.join(rows[i].values()) for i in chosen)]
    file = folder / f'{name}.{split}.tsv'
    file.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    files[split] = str(file)
  return dataclasses.replace(task, name=name, files=files)
