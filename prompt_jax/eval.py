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

from prompt_jax import files, tuned
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator, Result
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


def _bank(prompt: Mapping[str, str], sets: Sequence[Any]):
  """A prompt for each set, and the sets with its place as their task id."""
  names = list(dict.fromkeys(each.task for each in sets))
  missing = [name for name in names if name not in prompt]
  if missing:
    raise UserError(
      f'PROMPT_FILE has prompts for {", ".join(prompt) or "no task"}; expected '
      f'one for {missing[0]!r} too, of MIXTURE_OR_TASK_NAME. Add its file, or '
      'leave the task out.'
    )
  placed = [
    dataclasses.replace(each, task_id=names.index(each.task)) for each in sets
  ]
  return {name: prompt[name] for name in names}, placed


def evaluate(run: Evaluation) -> list[Result]:
  """Evaluates and writes; returns one Result a set.

  Raises: UserError for a prompt that does not fit the base.
  """
  prompt, sets = run.prompt_file, run.sets
  by_task = isinstance(prompt, Mapping)
  if by_task:
    prompt, sets = _bank(prompt, sets)
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
      'split': result.split,
      'examples': len(result.predictions),
      'prompt_file': prompt[result.task] if by_task else prompt,
      'inserts_file': run.inserts_file,
      'base_digest': digest,
    }
    files.write_json_lines(folder / f'{result.task}.jsonl', result.predictions)
    files.write_json(
      folder / f'{result.task}.json', {**result.metrics, **about}
    )
    said = '  '.join(f'{k} {v:.2f}' for k, v in result.metrics.items())
    print(f'{result.task} {result.split}: {said}', flush=True)
  return results


if __name__ == '__main__':
  from prompt_jax import cli

  cli.run_module('eval')
