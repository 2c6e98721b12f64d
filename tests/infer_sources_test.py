"""A saved source of several tasks: each row is answered as its own task."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from prompt_jax import eval as evaluation
from prompt_jax import export, infer, tuned
from prompt_jax.errors import UserError
from prompt_jax.prompts import parts
from prompt_jax.prompts.attached import tasks_of
from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.tasks import local
from tests import tiny
from tests.prompts.small_model import flat_of, model_of
from tests.prompts.sources import filled, inputs

P, H, D = 3, 7, 2
TASKS = ('one', 'two')
LABELS = ['no', 'yes']
ROWS = [{'inputs': f'film {i}', 'task': TASKS[i % 2]} for i in range(5)]


def _attempt(target):
  bank = functools.partial(Bank, ['a.npy', 'b.npy'], P)
  return Attempt(target, bank, bottleneck=D, temperature=3.0)


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  """{'both' | task: file} of two tasks in one source, and of each alone."""
  folder = tmp_path_factory.mktemp('sources')
  files = {name: str(folder / f'{name}.npz') for name in ('both', *TASKS)}
  both = _attempt(functools.partial(TaskPrompts, len(TASKS), P))
  flat = filled(both, *inputs(width=H))
  parts.save(files['both'], both, flat, {'tasks': [*TASKS]})
  alone = _attempt(functools.partial(Prompt, P))
  targets = np.asarray(flat.pop('targets/prompts'))
  for name, target in zip(TASKS, targets, strict=True):
    own = {**flat, 'targets/prompt': target}
    parts.save(files[name], alone, own, {'tasks': [name]})
  return files


def _inference(folder, rows, prompt, **settings):
  file = folder / 'rows.jsonl'
  file.write_text('\n'.join(map(json.dumps, rows)) + '\n')
  return infer.Inference(
    input_file=str(file),
    output_file=str(folder / 'said.jsonl'),
    config=tiny.model().config,
    base=tiny.base(),
    prompt_file=prompt,
    lengths={'inputs': 13, 'targets': 5},
    batch_size=3,
    vocabulary='bytes',
    **settings,
  )


def _said(run):
  infer.infer(run)
  with open(run.output_file, encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def _scores(run):
  return np.array([[*row['scores'].values()] for row in _said(run)])


def test_rows_of_a_source(sources, tmp_path):
  make = functools.partial(_inference, tmp_path, labels=LABELS)
  got = _scores(make(ROWS, sources['both']))
  for i, name in enumerate(TASKS):
    wanted = _scores(make(ROWS, sources[name]))  # one task: no field is read
    rows = slice(i, None, 2)
    np.testing.assert_allclose(got[rows], wanted[rows], rtol=1e-5, atol=1e-5)
    other = slice(1 - i, None, 2)
    assert np.abs(got[other] - wanted[other]).max() > 1e-3


def test_one_task_of_a_source_needs_no_field(sources, tmp_path):
  task = local.FileTask(name='two', files={}, template='{x}', labels=LABELS)
  rows = [{'x': row['inputs']} for row in ROWS]
  got = _scores(_inference(tmp_path, rows, sources['both'], task=task))
  run = _inference(tmp_path, ROWS, sources['two'], labels=LABELS)
  np.testing.assert_allclose(got, _scores(run), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ('row', 'settings', 'text'),
  [
    ({'inputs': 'a'}, {}, "has 'task' None; expected a task of PROMPT_FILE"),
    ({'inputs': 'a', 'task': 'on'}, {}, 'Nearest: one'),
    (
      {'text': 'a'},
      {'task': 'movie_sentiment'},
      "has prompts for one, two; expected one for 'movie_sentiment' too",
    ),
  ],
)
def test_tasks_that_a_source_does_not_know(
  sources, tmp_path, row, settings, text, monkeypatch
):
  monkeypatch.delattr(tuned, 'load')  # nothing is loaded before
  with pytest.raises(UserError, match=text):
    infer.infer(_inference(tmp_path, [row], sources['both'], **settings))


def test_from_python(sources):
  load = functools.partial(
    tuned.load,
    tiny.base(),
    vocabulary='bytes',
    lengths={'inputs': 13, 'targets': 5},
    batch_size=3,
  )
  model = load(sources['both'])
  assert model.tasks == TASKS and load(sources['one']).tasks == ()
  with pytest.raises(UserError, match='expected the name of a task for each'):
    model.rank(['film'], LABELS)


def test_a_source_that_does_not_name_its_tasks(sources, tmp_path):
  make, arrays, _ = parts.load(sources['both'])
  other = tmp_path / 'encoder.npz'
  parts.save(other, make(parent=None), arrays, {})
  with pytest.raises(UserError, match='for 2 tasks, but its sidecar names no'):
    tasks_of(str(other))
  parts.save(other, make(parent=None), arrays, {'tasks': ['two', 'one']})
  with pytest.raises(UserError, match='have other tasks'):
    tasks_of([str(other), sources['both']])


def test_what_a_run_writes_names_its_tasks(tmp_path):
  source = functools.partial(TaskPrompts, len(TASKS), P)
  model = model_of(encoder_prompt=lambda **k: _attempt(source).clone(**k))
  flat = flat_of(model)
  (file,) = export.write(str(tmp_path), model, flat, TASKS, {'step': 3})
  assert tasks_of(file) == TASKS


@dataclasses.dataclass(frozen=True)
class _Set:
  """What an evaluation reads of a set before it runs."""

  task: str
  task_id: int = 0


def test_evaluation_asks_by_the_tasks_of_the_source(sources, monkeypatch):
  sets = [_Set('two'), _Set('one')]
  asked = []

  def evaluator(model, sets, mode, labels):
    asked.extend((each.task, each.task_id) for each in sets)
    return lambda flat: []

  monkeypatch.setattr(evaluation, 'Evaluator', evaluator)
  none = lambda *args: (None, None, None)
  monkeypatch.setattr(tuned, 'assemble', none)
  run = functools.partial(
    evaluation.Evaluation, 'out', tiny.model().config, tiny.base()
  )
  evaluation.evaluate(run(sets, sources['both']))
  assert asked == [('two', 1), ('one', 0)]
  with pytest.raises(UserError, match="one, two; expected one for 'three'"):
    evaluation.evaluate(run([_Set('three')], sources['both']))
