"""Evaluates a base with a prompt file on a split of a task.

    python -m prompt_jax.eval --gin_file=models/mini.gin \
      --gin_file=runs/eval.gin \
      --gin.MIXTURE_OR_TASK_NAME="'movie_sentiment'" \
      --gin.PROMPT_FILE="'runs/first/prompts/300/movie_sentiment.npy'" \
      --gin.EVAL_OUTPUT_DIR="'runs/first/test'"

Writes EVAL_OUTPUT_DIR/<task>.json (metrics) and <task>.jsonl (predictions).
"""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from prompt_jax import files, tuned
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
    prompt_file: a saved prompt, a list of one for each stack, or None.
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
  prompt_file: str | Sequence[str] | None = None
  inserts_file: str | None = None
  mode: str = 'rank'
  labels: Sequence[str] | None = None
  vocabulary: str = 'shipped'
  allow_other_base: bool = False


def evaluate(run: Evaluation) -> list[Result]:
  """Evaluates and writes; returns one Result a set.

  Raises: UserError for a prompt that does not fit the base.
  """
  model, flat, digest = tuned.assemble(
    run.config,
    pretrained.resolve(run.base),
    run.prompt_file,
    run.vocabulary,
    run.allow_other_base,
    run.inserts_file,
  )
  evaluator = Evaluator(model, run.sets, run.mode, run.labels)
  results = evaluator(flat)
  for result in results:
    folder = pathlib.Path(run.output_dir).expanduser()
    about = {
      'split': result.split,
      'examples': len(result.predictions),
      'prompt_file': run.prompt_file,
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
