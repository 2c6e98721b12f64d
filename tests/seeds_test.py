"""Several seeds in one command: folders, what is compiled, the numbers."""

import json
import statistics

import gin
import numpy as np
import pytest

from prompt_jax import cli, ginfiles, seeds
from prompt_jax.errors import UserError
from tests import tiny

NAME = 'tiny_seeds'
SETTINGS = dict(BEST_METRIC='accuracy', TRAIN_STEPS=3, EVAL_PERIOD=1)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch):
  """Runs leave alone where JAX keeps compiled programs."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'unused')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('seeds')
  tiny.write_files(folder / 'files', name=NAME)
  return folder


def command(folder, model_dir, *more, **settings):
  settings = {'INITIAL_CHECKPOINT_PATH': tiny.base(), **SETTINGS, **settings}
  return [*tiny.flags(folder / 'files', model_dir, **settings), *more]


def prompt(folder):
  return np.load(folder / 'prompts' / '3' / f'{NAME}.npy')


@pytest.mark.slow
def test_a_run_each_and_their_mean(folder, capsys):
  many = folder / 'many'
  assert cli.main(command(folder, many, '--seeds', '0', '2')) == 0
  said = capsys.readouterr().out
  assert said.count('compiled in') == 2
  assert said.count('compiled in 0.0 s') == 1, 'the second compiled again'
  found = json.loads((many / 'seeds.json').read_text())
  assert found['seeds'] == [0, 2] and found['reasons'] == ['done', 'done']
  for i, seed in enumerate(found['seeds']):
    where = many / f'seed_{seed}'
    step = found['steps'][i]
    one = json.loads((where / 'eval' / str(step) / f'{NAME}.json').read_text())
    assert found['metrics']['accuracy']['each'][i] == one['accuracy']
    config = (where / 'config.gin').read_text()
    assert f'RANDOM_SEED = {seed}' in config and 'SEEDS = None' in config
    assert f"MODEL_DIR = '{where}'" in config.replace('\\\n    ', '')
    every = [
      json.loads(line)['accuracy']
      for line in (where / 'metrics.jsonl').read_text().splitlines()
      if json.loads(line)['group'] == 'eval'
    ]
    assert one['accuracy'] == max(every)
  accuracy = found['metrics']['accuracy']
  assert accuracy['mean'] == pytest.approx(np.mean(accuracy['each']))
  assert accuracy['std'] == pytest.approx(np.std(accuracy['each'], ddof=1))
  table = (many / 'seeds.md').read_text()
  assert table in said.replace(str(many / 'seeds.json'), '')
  assert '| metric | mean | standard deviation | seed 0 | seed 2 |' in table
  assert not np.array_equal(prompt(many / 'seed_0'), prompt(many / 'seed_2'))
  # a single run with the seed is the same run
  alone = folder / 'alone'
  assert cli.main(command(folder, alone, RANDOM_SEED=2)) == 0
  np.testing.assert_array_equal(prompt(alone), prompt(many / 'seed_2'))
  # the same command with a seed more costs one run
  capsys.readouterr()
  assert cli.main(command(folder, many, SEEDS=[0, 2, 5])) == 0
  said = capsys.readouterr().out
  assert said.count('nothing to do') == 2 and said.count('compiled in') == 1
  more = json.loads((many / 'seeds.json').read_text())
  assert more['seeds'] == [0, 2, 5]
  assert more['metrics']['accuracy']['each'][:2] == accuracy['each']


def test_the_numbers():
  found = {
    seed: {
      'step': 10 * seed,
      'reason': 'done',
      'metrics': {'f1': value, 'accuracy': 2 * value},
    }
    for seed, value in ((3, 50.0), (5, 53.0), (7, 55.0))
  }
  found[7]['metrics'].pop('f1')
  summary = seeds.summarised(found)
  assert summary['metrics'] == {
    'accuracy': {
      'mean': pytest.approx(316 / 3),
      'std': pytest.approx(statistics.stdev([100, 106, 110])),
      'each': [100, 106, 110],
    }
  }
  assert seeds.table(summary).splitlines() == [
    '| metric | mean | standard deviation | seed 3 | seed 5 | seed 7 |',
    '| --- | ---: | ---: | ---: | ---: | ---: |',
    '| accuracy | 105.33 | 5.03 | 100.00 | 106.00 | 110.00 |',
    '| at step |  |  | 30 | 50 | 70 |',
  ]
  one = seeds.summarised({3: found[3]})
  assert one['metrics']['f1'] == {'mean': 50.0, 'std': None, 'each': [50.0]}
  assert '| f1 | 50.00 |  | 50.00 |' in seeds.table(one)


@pytest.mark.parametrize('value', ['3', '[]', '[1, 1]', '[-1]', '[0, 1.5]'])
def test_seeds_that_cannot_be(value, folder, capsys):
  flags = command(folder, folder / 'none', SEEDS=value)
  assert cli.main([*flags, '--dry_run']) == 2
  said = capsys.readouterr().err
  assert f'SEEDS is {value}; expected a list of distinct whole numbers' in said


def test_seeds_given_twice(folder, capsys):
  flags = command(folder, folder / 'none', '--seeds', '1', SEEDS=[1])
  assert cli.main(flags) == 2
  assert 'SEEDS is given twice, as --seeds and as' in capsys.readouterr().err


def test_a_dry_run_trains_nothing(folder, capsys):
  flags = command(folder, folder / 'none', '--seeds', '1', '3', '--dry_run')
  assert cli.main(flags) == 0
  assert 'SEEDS = [1, 3]' in capsys.readouterr().out
  assert not (folder / 'none').exists()


def test_a_seed_and_a_folder_that_are_no_macros(folder, capsys):
  seed = '--gin.train.Run.seed=3'
  flags = command(folder, folder / 'none', seed, '--seeds', '1')
  assert cli.main(flags) == 2
  said = capsys.readouterr().err
  assert 'but the run has seed 3 and is in' in said
  assert 'expected both to come from the macros RANDOM_SEED and' in said
  where = f'--gin.train.Run.model_dir={folder / "none"}'
  flags = [flag for flag in flags if 'MODEL_DIR' not in flag]
  assert cli.main([*flags, where]) == 2
  assert 'below MODEL_DIR, which is not given' in capsys.readouterr().err
  assert not (folder / 'none').exists()


def test_one_run_carries_out_no_seeds(folder):
  run = tiny.configured(folder / 'files', folder / 'none', SEEDS=[1, 2])
  with pytest.raises(UserError, match=r'SEEDS is \[1, 2\], but `train` carr'):
    run.check()
  assert seeds.asked() == [1, 2]
  ginfiles.parse([str(folder / 'files' / 'model.gin')], ['DROPOUT_RATE=0.0'])
  assert seeds.asked() is None
  gin.clear_config()
