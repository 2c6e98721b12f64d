"""Combinations: the runs that one command line with lists describes.

    files + start + {LEARNING_RATE, RANDOM_SEED, ...} -> gin -> train.Run

Each member is parsed anew, as a command of its own would be, so that it is
checked as one, and the macros that only its start reads reach it alone.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any

import gin

from prompt_jax import bindings, ginfiles
from prompt_jax.errors import UserError
from prompt_jax.params import nearest

# field of `sweep.Sweep`: (its macro, that of a single run)
MACROS = {
  'tasks': ('SWEEP_TASKS', 'MIXTURE_OR_TASK_NAME'),
  'starts': ('SWEEP_STARTS', None),
  'rates': ('SWEEP_RATES', 'LEARNING_RATE'),
  'seeds': ('SWEEP_SEEDS', 'RANDOM_SEED'),
}
# Macros that only files of gin/prompts read.
_STARTS = (
  *('CLASS_LABELS', 'EMBEDDING_FILE', 'PROMPT_FILE', 'PROMPT_FILES'),
  *('COMBINE_FILES', 'POPULATION', 'PROMPT_TEXT'),
)


@dataclasses.dataclass(frozen=True)
class Command:
  """Gin files and bindings, from which the run of each member is made."""

  files: Sequence[str]
  bindings: Sequence[str]
  search_paths: Sequence[str] = ()

  def _mentioned(self, names: Sequence[str]) -> set[str]:
    """Macros that gin files bind or read, includes followed."""
    locate = lambda name: ginfiles.find(name, self.search_paths)
    found: set[str] = set()
    for name in names:
      imports = bindings.Imports()
      for each in bindings.read(locate(name), imports, locate)[0]:
        found |= {*each.macros(), *([each.name] if each.is_macro else ())}
    return found

  def _gives(self, macro: str | None) -> bool:
    """Whether the command line binds a macro."""
    return macro in map(_bound, self.bindings)

  def folder(self) -> pathlib.Path:
    """MODEL_DIR of the sweep, as gin's configuration has it."""
    value = gin.query_parameter('MODEL_DIR/gin.macro.value')
    return pathlib.Path(value).expanduser()

  def sweep(self):
    """The `sweep.Sweep` of the files; gin then holds what all share."""
    here = self._mentioned(self.files)
    if 'SWEEP_SEEDS' not in here:
      raise UserError(
        f'The gin files {list(self.files)} say nothing of a sweep; expected '
        'runs/sweep.gin among them, in place of runs/train.gin.'
      )
    self._parse([], here, {})
    sweep = gin.get_configurable('prompt_jax.sweep.Sweep')()
    for field, (macro, single) in MACROS.items():
      if getattr(sweep, field) and self._gives(single):
        raise UserError(
          f'{single} and {macro} are both given; expected one of them: the '
          'sweep binds the first for each prompt. Leave it out.'
        )
    one = gin.query_parameter('MIXTURE_OR_TASK_NAME/gin.macro.value')
    if sweep.tasks is None and one is None:
      raise UserError(
        'The sweep has no task; expected SWEEP_TASKS, a list of names, or '
        'MIXTURE_OR_TASK_NAME, one for all prompts.'
      )
    starts = [start_file(start, self.search_paths) for start in _each(sweep)]
    read = here | self._mentioned([file for file, _ in starts if file])
    idle = [name for name in map(_bound, self.bindings) if name in _STARTS]
    idle = [name for name in idle if name not in read]
    if idle:
      raise UserError(
        f'--gin.{idle[0]} is set on the command line, but none of the starts '
        f'{list(sweep.starts or ())} reads it. Leave it out, or add the start '
        'that does to SWEEP_STARTS.'
      )
    return sweep

  def _parse(self, more: Sequence[str], read, macros: Mapping) -> None:
    """Makes gin's configuration that of one member."""
    kept = [
      each
      for each in self.bindings
      if _bound(each) not in _STARTS or _bound(each) in read
    ]
    own = [f'{name}={value!r}' for name, value in macros.items()]
    ginfiles.parse([*self.files, *more], [*kept, *own], self.search_paths)

  def configure(self, start: str | None, macros: Mapping[str, Any]) -> None:
    """Makes gin's configuration that of a member.

    Sources are made when a model is used, with what gin holds then.
    """
    file, own = start_file(start, self.search_paths)
    more = [file] if file else []
    read = self._mentioned([*self.files, *more])
    self._parse(more, read, {**macros, **own})

  def run(self, start: str | None, macros: Mapping[str, Any]):
    """The `train.Run` of a member, and its gin text."""
    from prompt_jax import lanes, train

    self.configure(start, macros)
    # the other devices have members of their own
    own = {'data_parallel': 1} if lanes.possible() else {}
    run = gin.get_configurable(train.Run)(**own)
    return run, ginfiles.operative()


def _bound(binding: str) -> str:
  return binding.partition('=')[0].strip()


def _each(sweep) -> Sequence[str | None]:
  return sweep.starts or [None]


def start_file(
  start: str | None, search_paths: Sequence[str] = ()
) -> tuple[str | None, dict[str, str]]:
  """The gin file of a start, and the macros that it needs.

  Args:
    start: name of a file of gin/prompts, with or without .gin; a gin file of
      the user's; or a saved prompt, .npy. None is what the method says.
  Raises: UserError if there is no such start.
  """
  if start is None:
    return None, {}
  if start.endswith('.npy'):
    if not os.path.isfile(start):
      raise UserError(
        f'SWEEP_STARTS names {start!r}, which is no file; expected a saved '
        'prompt [P,H]. Correct the path.'
      )
    return 'prompts/from_file.gin', {'PROMPT_FILE': start}
  known = [
    pathlib.PurePath(name).stem for name in ginfiles.available('prompts')
  ]
  if start in known:
    return f'prompts/{start}.gin', {}
  if start.endswith('.gin'):
    return ginfiles.find(start, search_paths), {}
  raise UserError(
    f'SWEEP_STARTS names {start!r}; expected one of {", ".join(known)}, a gin '
    f'file or a .npy file. Nearest: {nearest(start, known, 1)[0]}.'
  )


def members(command: Command, sweep, folder: pathlib.Path) -> list:
  """The `member.Member` of every combination, their runs checked.

  Raises: UserError for what can be known before the base is read.
  """
  from prompt_jax.member import Member

  axes = [getattr(sweep, field) or [None] for field in MACROS]
  made: list[Member] = []
  for task, start, rate, seed in itertools.product(*axes):
    values = {
      'MIXTURE_OR_TASK_NAME': task,
      'LEARNING_RATE': rate,
      'RANDOM_SEED': seed,
    }
    values = {name: x for name, x in values.items() if x is not None}
    stem = start and pathlib.PurePath(start).stem
    parts = [task, stem, rate and f'rate_{rate:g}']
    parts.append(None if seed is None else f'seed_{seed}')
    name = '-'.join(str(part).replace('/', '_') for part in parts if part)
    if name in [each.name for each in made]:
      raise UserError(
        f'Two prompts of the sweep would be called {name!r}; expected names '
        'that differ, for each has a folder of that name. Rename a file of '
        'SWEEP_STARTS, or round SWEEP_RATES to six digits.'
      )
    values['MODEL_DIR'] = str(folder / name)
    run, config = command.run(start, values)
    _check(run, values)
    about = {
      'task': '+'.join(run.dataset.tasks),
      'start': stem,
      'rate': max(rate for _, rate in run.table),
      'seed': run.seed,
    }
    configure = functools.partial(command.configure, start, values)
    made.append(Member(name, about, run, config, configure))
  return made


def _check(run, values: Mapping[str, Any]) -> None:
  """Raises UserError for a run that cannot be a member."""
  if run.base is None:
    raise UserError(
      'INITIAL_CHECKPOINT_PATH is None; expected a trained base, which the '
      'prompts of a sweep share. One drawn at random is another for each seed.'
    )
  if not run.staging.is_plain:
    raise UserError(
      f'The run has {len(run.staging)} stages; expected one of the whole '
      'model, for a sweep has one program. Use runs/sweep.gin alone.'
    )
  rate, rates = values.get('LEARNING_RATE'), [rate for _, rate in run.table]
  if rate is not None and rate not in rates:
    raise UserError(
      f'SWEEP_RATES asks for {rate}, but the train table has the rates '
      f'{rates}; expected it to read LEARNING_RATE. Use a method file whose '
      'table does, or vary something else.'
    )
  if (run.seed, run.model_dir) != (
    values.get('RANDOM_SEED', run.seed),
    values['MODEL_DIR'],
  ):
    raise UserError(
      f'The sweep asks for seed {values.get("RANDOM_SEED")} in '
      f'{values["MODEL_DIR"]}, but the run has seed {run.seed} and is in '
      f'{run.model_dir}; expected both to come from the macros RANDOM_SEED and '
      'MODEL_DIR. Leave train.Run as runs/train.gin binds it.'
    )
  run.check()
  if run.plan.counts_epochs:
    run.plan = run.plan.in_steps(run.dataset.steps_per_epoch)
