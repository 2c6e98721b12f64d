"""Stimulation: what is read where, and ON through the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_jax import cli
from prompt_jax.errors import UserError
from prompt_jax.transfer import (
  indicators_action,
  matrix,
  overlap,
  shelf,
  stimulation,
)
from prompt_jax.transfer.stimulation import Where
from tests import tiny
from tests.transfer import small


@pytest.fixture(scope='module')
def prompts(tmp_path_factory):
  names = ['one', 'other', 'third']
  return small.write(tmp_path_factory.mktemp('prompts'), names)


def test_before_and_after_a_gated_mlp(prompts):
  base, held = small.base(), shelf.read(prompts)
  heard = stimulation.record(base, held)
  shape = (len(held), base.config.num_decoder_layers, base.config.d_ff)
  assert heard.before.shape == heard.after.shape == shape
  gate = np.asarray(jax.nn.gelu(jnp.asarray(heard.before)))
  linear = heard.after / gate  # the other half, where the gate is open
  np.testing.assert_allclose(gate * linear, heard.after, rtol=1e-5)
  agree = overlap.active(heard.before) == overlap.active(heard.after)
  np.testing.assert_array_equal(agree, linear > 0)
  assert not np.allclose(heard.after[0], heard.after[1])


def test_prompts_do_not_hear_each_other(prompts):
  held = shelf.read(prompts)
  both = stimulation.record(small.base(), held)
  alone = stimulation.record(small.base(), held.only(['third']))
  np.testing.assert_allclose(
    both.after[2], alone.after[0], rtol=1e-4, atol=1e-6
  )


def test_positions_of_the_encoder(prompts):
  held, base = shelf.read(prompts), small.base()
  last = stimulation.record(base, held, Where('encoder', -1))
  same = stimulation.record(base, held, Where('encoder', held.length))
  np.testing.assert_array_equal(last.after, same.after)
  with pytest.raises(UserError, match='one from -4 to 3: it hears 4 positions'):
    stimulation.record(base, held, Where('encoder', 4))


def test_the_sentinel():
  assert stimulation.sentinel(small.base()) == 258
  shipped = stimulation.Base('x', small.base().config, {}, 'none', 'shipped')
  assert stimulation.sentinel(shipped) == 8099


def test_command(prompts, tmp_path, capsys):
  names = shelf.read(prompts).names
  rng = np.random.default_rng(0)
  scores = matrix.Matrix(names, names, rng.random((3, 3)))
  scores.write(tmp_path / 'm.csv')
  argv = ['transfer', 'indicators', '--prompts', str(prompts)]
  argv += ['--matrix', str(tmp_path / 'm.csv'), '--output', str(tmp_path)]
  argv += ['--base', tiny.base(), '--vocabulary', 'bytes']
  assert cli.main(argv) == 0
  said = capsys.readouterr().out
  assert 'ON_chance' in said and 'layer  mean ON  chance  Spearman' in said
  lines = (tmp_path / 'indicators.csv').read_text().splitlines()
  assert len(lines) == 4 and lines[0].endswith('C_average,ON,ON_chance')
  assert cli.main([*argv, '--layers', '0', '5']) == 2
  assert 'of the 1 layers that were recorded' in capsys.readouterr().err
  assert cli.main([*argv, '--rows', '3']) == 2
  assert 'are nothing to compare' in capsys.readouterr().err


def test_a_matrix_of_other_tasks(prompts):
  scores = matrix.Matrix(('one', 'x'), ('one', 'x'), np.ones((2, 2)))
  with pytest.raises(UserError, match='1 tasks in common .one.; expected at'):
    indicators_action._aligned(scores, shelf.read(prompts))


def test_a_stack_without_layers():
  config = tiny.model(None, num_encoder_layers=0).config
  base = stimulation.Base('deep', config, {}, 'none', 'bytes')
  held = shelf.of({'a': np.zeros((3, small.H))})
  with pytest.raises(UserError, match='deep has no layers in its encoder'):
    stimulation.record(base, held, Where('encoder'))
