"""Whether the parts of a run fit each other: told before anything is read.

model and train table, prompts and tasks, vocabulary, lengths, evaluations
"""

from prompt_jax import export, params
from prompt_jax.errors import UserError
from prompt_jax.evaluate import Evaluator
from prompt_jax.training import state as states


def check(run) -> None:
  """Raises UserError if the parts of a `train.Run` do not fit each other."""
  for source in export.sources(run.model).values():
    _check_source(source, run)
  _check_budget(run)
  ids, rows = run.dataset.vocab_size, run.model.config.vocab_size
  if ids > rows:
    raise UserError(
      f'The vocabulary of the tasks has {ids} ids but the model has '
      f'NUM_EMBEDDINGS={rows} rows; expected a row for every id. Use the '
      'VOCABULARY that this base was trained with, and its model file.'
    )
  params.split(states.abstract(run.model)[0], run.table)
  if run.evaluations:
    _check_metric(run)


def _check_source(source, run) -> None:
  kind, length, tasks = type(source).__name__, source.length, run.dataset.tasks
  if not isinstance(length, int) or length < 1:
    raise UserError(
      f'{kind} has {length!r} rows; expected a whole number, 1 or more. '
      'Correct PROMPT_LENGTH.'
    )
  if source.num_tasks not in (1, len(tasks)):
    raise UserError(
      f'{kind} has num_tasks={source.num_tasks} but the data has '
      f'{len(tasks)} tasks ({", ".join(tasks[:5])}...); expected one '
      f'prompt a task. Use --gin.NUM_TASKS={len(tasks)}.'
    )
  if hasattr(source, 'check'):  # of files that it reads
    source.check(run.model.config.d_model)


def _check_budget(run) -> None:
  lengths, budget = run.dataset.task_feature_lengths, run.position_budget
  source = export.sources(run.model).get('encoder')
  if budget is None or source is None:
    return
  rows = source.length // run.model.encoder_depth
  positions = rows + lengths['inputs']
  if positions > budget:
    raise UserError(
      f'A prompt of {rows} rows and {lengths["inputs"]} input '
      f'tokens are {positions} positions; expected at most '
      f'POSITION_BUDGET={budget}. Use --gin.PROMPT_LENGTH='
      f'{max(budget - lengths["inputs"], 0)}, or shorter inputs.'
    )


def _check_metric(run) -> None:
  evaluator = Evaluator(
    *(run.model, run.evaluations, run.eval_mode, run.class_labels),
    mesh=run.mesh,
  )
  wanted, known = run.plan.best_metric, evaluator.metric_names()
  if wanted is not None and known is not None and wanted not in known:
    close = params.nearest(str(wanted), sorted(known), 1)[0]
    raise UserError(
      f'BEST_METRIC is {wanted!r}; expected one of '
      f'{", ".join(sorted(known))}. Nearest: {close!r}.'
    )
