"""Evaluation with a prompt for each task: its own, whatever the order."""

import json

import numpy as np
import pytest

from prompt_jax import data, evaluate
from prompt_jax import eval as evaluation
from prompt_jax.errors import UserError
from prompt_jax.tasks import local
from tests import tiny

NAMES = ('eval_first', 'eval_second')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('eval')
  rng = np.random.default_rng(53)
  for name in NAMES:
    lines = [f'film {i}\t{tiny.LABELS[i % 2]}' for i in range(5)]
    file = folder / f'{name}.tsv'
    file.write_text('text\tlabel\n' + '\n'.join(lines) + '\n')
    np.save(folder / f'{name}.npy', 3 * rng.normal(size=(3, 7)))
  return folder


def evaluated(folder, names, prompt, output):
  tasks = [
    local.FileTask(
      name=name,
      files={'test': str(folder / f'{name}.tsv')},
      labels=tiny.LABELS,
      vocabulary='bytes',
    )
    for name in names
  ]
  lengths = {'inputs': 13, 'targets': 5}
  dataset = data.Dataset(tasks, lengths, vocabulary='bytes')
  run = evaluation.Evaluation(
    output_dir=str(folder / output),
    config=tiny.model().config,
    base=tiny.base(),
    sets=evaluate.evaluation_sets(dataset, 'test', batch_size=8),
    prompt_file=prompt,
    vocabulary='bytes',
  )
  return {each.task: each for each in evaluation.evaluate(run)}


@pytest.mark.slow
def test_each_task_has_its_own_prompt(folder):
  files = {name: str(folder / f'{name}.npy') for name in NAMES}
  both = evaluated(folder, NAMES[::-1], files, 'both')
  for name in NAMES:
    alone = evaluated(folder, [name], files[name], name)[name]
    for row, other in zip(
      both[name].predictions, alone.predictions, strict=True
    ):
      assert row['input'] == other['input']
      np.testing.assert_allclose(
        list(row['scores'].values()),
        list(other['scores'].values()),
        rtol=1e-6,
        atol=1e-6,
      )
    about = json.loads((folder / 'both' / f'{name}.json').read_text())
    assert about['prompt_file'] == files[name]


def test_a_task_without_a_prompt(folder):
  files = {NAMES[0]: str(folder / f'{NAMES[0]}.npy')}
  text = "has prompts for eval_first; expected one for 'eval_second' too"
  with pytest.raises(UserError, match=text):
    evaluated(folder, NAMES, files, 'none')
