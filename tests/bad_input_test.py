"""Bad input costs one message: before compiling, short, and with a remedy."""

import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.training.step import Program
from tests import tiny


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
  def compiled(self, *_):
    raise AssertionError(f'{self.name} is being compiled')

  tiny.trained()  # once for all tests, while it may still compile
  monkeypatch.setattr(Program, 'compiled', compiled)


@pytest.fixture
def refused(tmp_path, capsys):
  """Runs a command that has to fail: the texts its message must hold."""

  def refused(*texts, add=(), run=None, **settings):
    if run is None:
      tiny.write_files(tmp_path / 'files')
      known = {'INITIAL_CHECKPOINT_PATH': tiny.base(), **settings}
      flags = tiny.flags(tmp_path / 'files', tmp_path / 'run', **known)
    else:
      flags = run.flags(**settings)
    capsys.readouterr()
    assert cli.main([*flags, *add]) == 2
    said = capsys.readouterr().err
    mine = said[said.index('prompt-jax: ') :]
    for text in texts:
      assert text in mine
    assert 'Traceback' not in said and len(mine.splitlines()) < 12
    assert '\n\n' not in mine.strip()
    assert not (tmp_path / 'run' / 'checkpoints' / '4').exists()

  return refused


def test_unknown_macro(refused):
  refused(
    "no gin file given mentions a macro 'TRAIN_STEP'",
    'Nearest: TRAIN_STEPS',
    TRAIN_STEP=3,
  )


def test_missing_macro(refused):
  name = 'MIXTURE_OR_TASK_NAME'
  refused('1 value(s) missing', f'--gin.{name}=...', **{name: None})


def test_misspelt_parameter(refused):
  add = ['--gin.train.Run.modle_dir=x']
  refused('modle_dir', 'model_dir', add=add)


FROM_FILE = ['--gin_file=prompts/from_file.gin']


@pytest.mark.parametrize(
  ('array', 'texts'),
  [
    (np.ones((3, 11)), ['is a prompt [3, 11]; expected [3, 7]', '11 wide']),
    (np.ones((5, 7)), ['set PROMPT_LENGTH=5']),
    (np.full((3, 7), np.nan), ['has 21 values that are NaN', 'at [0, 0]']),
    (np.array([[None] * 7] * 3), ['is not a readable .npy file']),
    (np.ones((3, 7), int), ['is int64 [3, 7]; expected floats [P, H]']),
    (None, ['does not exist; expected a saved prompt', 'Nearest in']),
  ],
)
def test_prompt_files(refused, tmp_path, array, texts):
  np.save(tmp_path / 'other.npy', np.ones((3, 7)))
  file = tmp_path / 'prompt.npy'
  if array is not None:
    np.save(file, array)
  refused(*texts, add=[*FROM_FILE, f'--gin.PROMPT_FILE={file}'])


def test_more_class_labels_than_rows(refused):
  refused(
    '4 labels cannot start a prompt of 3 positions',
    'Set PROMPT_LENGTH=4',
    add=['--gin_file=prompts/from_class_labels.gin'],
    CLASS_LABELS=['a', 'b', 'c', 'd'],
  )


@pytest.mark.parametrize(
  ('settings', 'texts'),
  [
    (
      {'NUM_EMBEDDINGS': 269},
      ['The vocabulary does not match: the checkpoint has 263 rows'],
    ),
    (
      {'EMBED_DIM': 13},
      ['The model size differs', 'EMBED_DIM=7 (model: 13)'],
    ),
    ({'NUM_HEADS': 3, 'HEAD_DIM': 5}, ['NUM_HEADS=5 (model: 3)']),
    ({'NUM_ENCODER_LAYERS': 2}, ['missing    encoder/layers_1/']),
    ({'INITIAL_CHECKPOINT_PATH': '/none/base'}, ['There is no checkpoint']),
  ],
)
def test_bases_that_do_not_fit(refused, settings, texts):
  refused(*texts, **settings)


def test_a_table_that_meets_nothing(refused):
  table = "[('encoder/promt/.*', 0.3)]"
  refused(
    "'encoder/promt/.*' in the train table matches none of the",
    'Nearest: encoder/prompt/prompt',
    add=[f'--gin.train.Run.table={table}'],
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('settings', 'texts'),
  [
    ({'RANDOM_SEED': 3}, ['seed: there 0, here 3', 'data: there']),
    (
      {'PROMPT_LENGTH': 2},
      ["'trainable/encoder/prompt/prompt': [3, 7]", '[2, 7]'],
    ),
    ({'INITIAL_CHECKPOINT_PATH': None}, ['base_digest: there', 'here none']),
    ({'method': 'full'}, ['trains: there', "sources: there {'encoder'"]),
  ],
)
def test_a_folder_of_another_run(refused, settings, texts):
  run = tiny.trained()
  refused(
    f'{run.model_dir} holds a run of another method, base or data',
    'Give another MODEL_DIR, or delete this one',
    *texts,
    run=run,
    TRAIN_STEPS=8,
    **settings,
  )


def test_unknown_task(refused):
  refused(
    "No task or mixture is called 'movie_sentimant'",
    'movie_sentiment',
    MIXTURE_OR_TASK_NAME='movie_sentimant',
  )


@pytest.mark.parametrize(
  ('text', 'texts'),
  [
    ('text\tlabel\n', ['train.tsv holds no examples; expected at least one']),
    (
      'txet\tlabel\na\tyes\n',
      ["line 2 has no column 'text'", "Nearest: 'txet'"],
    ),
    (
      'text\tlabel\na\tyse\n',
      ["line 2 has the label 'yse'; expected one of no, yes", "Nearest: 'yes'"],
    ),
    ('text\tlabel\na\n', ['line 2 has 1 fields; expected 2']),
  ],
)
def test_data_files(refused, tmp_path, text, texts):
  file = tmp_path / 'train.tsv'
  file.write_text(text)
  files = f"{{'train': '{file}', 'validation': '{file}'}}"
  add = [f'--gin.local.FileTask.files={files}']
  refused(*texts, add=add)


@pytest.mark.parametrize(
  ('settings', 'texts'),
  [
    (
      {'BATCH_SIZE': 12},
      ['BATCH_SIZE is 12; expected a multiple of 8', '--gin.BATCH_SIZE=16'],
    ),
    ({'EVAL_BATCH_SIZE': 12}, ['EVAL_BATCH_SIZE is 12', 'EVAL_BATCH_SIZE=16']),
    ({'MODEL_PARALLEL': 3}, ['MODEL_PARALLEL is 3; expected a divisor']),
    (
      {'ACTIVATION_DTYPE': 'float16'},
      ["is 'float16'; expected 'float32' or 'bfloat16'", 'overflow'],
    ),
    ({'TRAIN_STEPS': -1}, ['TRAIN_STEPS is -1; expected a whole number']),
    (
      {'TRAIN_STEPS': 1_130_000},
      ['TRAIN_STEPS is 1,130,000', '--gin.TRAIN_STEPS=30000'],
    ),
    ({'PATIENCE': 2}, ['PATIENCE is 2 but BEST_METRIC is None']),
    (
      {'PATIENCE': 2, 'BEST_METRIC': 'accuracy', 'EVAL_PERIOD': 0},
      ['PATIENCE is 2 but EVAL_PERIOD is 0', '--gin.EVAL_PERIOD=100'],
    ),
    (
      {'BEST_METRIC': 'acuracy'},
      ["BEST_METRIC is 'acuracy'; expected one of", "Nearest: 'accuracy'"],
    ),
    ({'PROMPT_LENGTH': 0}, ['Prompt has 0 rows; expected a whole number, 1']),
    ({'PROMPT_LENGTH': 2.5}, ['Prompt has 2.5 rows; expected a whole number']),
    (
      {'LEARNING_RATE': -0.3},
      ["'encoder/prompt/.*' the learning rate -0.3; expected a number above 0"],
    ),
    ({'LEARNING_RATE': "'0.3'"}, ["the learning rate '0.3'; expected a num"]),
    (
      {'LABELS': "['good', 'bad']"},
      ["LABELS are ['good', 'bad'], none of them a target of task", 'no, yes'],
    ),
    ({'KEEP': 0}, ['KEEP is 0; expected a whole number of checkpoints']),
    ({'EVAL_MODE': 'score'}, ["EVAL_MODE is 'score'; expected one of"]),
    (
      {'TASK_FEATURE_LENGTHS': {'inputs': 13}},
      ["TASK_FEATURE_LENGTHS gives 'targets' as None"],
    ),
  ],
)
def test_settings(refused, settings, texts):
  refused(*texts, **settings)


@pytest.mark.parametrize(
  ('method', 'settings', 'texts'),
  [
    (
      'residual',
      {'NETWORK': "'lstm'"},
      ["Residual got kind='lstm'; expected a network", '@prompts.LSTM'],
    ),
    ('residual', {'BOTTLENECK': 0}, ['network/down got 0 units; expected a']),
    (
      'residual',
      {'prompts.MLP.dropout': 1.5},
      ['got a dropout rate of 1.5; expected at least 0 and less than 1'],
    ),
    (
      'lora',
      {'RANK': "'8'", 'PROMPT_LENGTH': None},
      ["LoRA got rank='8'; expected a whole number"],
    ),
    (
      'perceptron',
      {'CRITERION': "'hinge'", 'RANKED_LABELS': "['no', 'yes']"},
      ["Ranking got criterion='hinge'; expected a function"],
    ),
    (
      'prompt',
      {'train.Run.table': "['encoder/prompt/.*']"},
      ["the row 'encoder/prompt/.*'; expected a pair of a path pattern and"],
    ),
    (
      'lora',
      {
        'prompted.PromptEncoderDecoder.inserts': "['.*/query']",
        'PROMPT_LENGTH': None,
      },
      ["inserts has '.*/query'; expected pairs of a site pattern and a module"],
    ),
  ],
)
@pytest.mark.parametrize('dry', [(), ('--dry_run',)], ids=['run', 'dry run'])
def test_methods(refused, method, settings, texts, dry):
  refused(*texts, method=method, add=dry, **settings)


def test_a_folder_that_is_a_file(tmp_path, capsys):
  tiny.write_files(tmp_path / 'files')
  (tmp_path / 'run').write_text('')
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base()}
  flags = tiny.flags(tmp_path / 'files', tmp_path / 'run', **settings)
  assert cli.main(flags) == 2
  assert 'cannot be written or read' in capsys.readouterr().err


def test_no_steps_are_no_error(tmp_path, capsys):
  tiny.write_files(tmp_path / 'files')
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base(), 'TRAIN_STEPS': 0}
  assert (
    cli.main(tiny.flags(tmp_path / 'files', tmp_path / 'run', **settings)) == 0
  )
  said = capsys.readouterr().out
  assert f'nothing to do: {tmp_path / "run"} is at step 0' in said


def test_a_vocabulary_with_more_ids_than_rows(refused):
  refused(
    'The vocabulary of the tasks has 8100 ids',
    'expected a row for every id',
    VOCABULARY='shipped',
  )
