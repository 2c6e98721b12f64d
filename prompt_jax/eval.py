"""Evaluates a base with a prompt file on a split of a task.

    python -m prompt_jax.eval --gin_file=models/mini.gin \
      --gin_file=runs/eval.gin \
      --gin.MIXTURE_OR_TASK_NAME="'movie_sentiment'" \
      --gin.PROMPT_FILE="'runs/first/prompts/300/movie_sentiment.npy'" \
      --gin.EVAL_OUTPUT_DIR="'runs/first/test'"

Writes EVAL_OUTPUT_DIR/<task>.json (metrics) and <task>.jsonl (predictions).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from prompt_jax import compile_cache, files, tuned
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator, Result
from prompt_jax.prompts.attached import tasks_of
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config


@dataclasses.dataclass
class Evaluation:
  """What to evaluate; gin binds its fields, `evaluate` carries it out.

  Args:
    output_dir: folder of the results.
    config: shapes of the base.
    base: its checkpoint.
    sets: evaluation sets.
    prompt_file: a saved prompt, a list of one for each stack, {task: such}, or
      None.
    inserts_file: inserts.npz, or None for the model without inserts.
    mode: 'rank' or 'generate'.
    labels: target texts to rank; None takes each task's own.
    vocabulary: the vocabulary of the data.
    allow_other_base: accept a prompt that was trained on another base.
  """

  output_dir: str
  config: T5Config
  base: str
  sets: Sequence[Any]
  prompt_file: str | Sequence[str] | Mapping[str, str] | None = None
  inserts_file: str | None = None
  mode: str = 'rank'
  labels: Sequence[str] | None = None
  vocabulary: str = 'shipped'
  allow_other_base: bool = False


def _placed(names: Sequence[str], sets: Sequence[Any]) -> list[Any]:
  """The sets with their place among the tasks of PROMPT_FILE as task id."""
  missing = [each.task for each in sets if each.task not in names]
  if missing:
    raise UserError(
      f'PROMPT_FILE has prompts for {", ".join(names) or "no task"}; expected '
      f'one for {missing[0]!r} too, of MIXTURE_OR_TASK_NAME. Add its file, or '
      'leave the task out.'
    )
  return [
    dataclasses.replace(each, task_id=names.index(each.task)) for each in sets
  ]


def evaluate(run: Evaluation) -> list[Result]:
  """Evaluates and writes; returns one Result a set.

  Raises: UserError for a prompt that does not fit the base.
  """
  compile_cache.keep()
  prompt, sets = run.prompt_file, run.sets
  by_task = isinstance(prompt, Mapping)
  if by_task:
    # prompts of other tasks need not be read
    asked = {each.task for each in sets}
    sets = _placed([name for name in prompt if name in asked], sets)
    prompt = {name: file for name, file in prompt.items() if name in asked}
  elif apart := tasks_of(prompt):
    sets = _placed(apart, sets)
  model, flat, digest = tuned.assemble(
    run.config,
    pretrained.resolve(run.base),
    prompt,
    run.vocabulary,
    run.allow_other_base,
    run.inserts_file,
  )
  evaluator = Evaluator(model, sets, run.mode, run.labels)
  results = evaluator(flat)
  for result in results:
    folder = pathlib.Path(run.output_dir).expanduser()
    about = {
      'prompt_file': prompt[result.task] if by_task else prompt,
      'inserts_file': run.inserts_file,
      'base_digest': digest,
    }
    files.write_json_lines(folder / f'{result.task}.jsonl', result.predictions)
    files.write_json(folder / f'{result.task}.json', {**result.told(), **about})
    said = '  '.join(f'{k} {v:.2f}' for k, v in result.metrics.items())
    print(f'{result.task} {result.split}: {said}', flush=True)
  return results


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('eval')
