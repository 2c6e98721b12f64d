"""Adapters of PEFT and ours give the same logits, whoever trained them."""

import functools
import itertools

import jax
import numpy as np
import pytest

from prompt_jax import convert, tuned
from prompt_jax.inserts import IA3, KeyValues, LoRA
from prompt_jax.inserts import saved as saved_inserts
from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from prompt_jax.training.state import abstract
from prompt_jax.training.step import forward
from tests import tiny

pytestmark = [pytest.mark.interop, pytest.mark.slow]
_TOLERANCE = 1e-4  # of float32 logits, two layers and three

_PROMPTS = ('prompt', 'prompt_of_two_parts', 'p_tuning')
_INSERTS = ('ia3', 'ia3_everywhere', 'lora', 'lora_everywhere')
_OURS = {
  'ia3': [('.*/(key|value|hidden)', IA3)],
  'lora': [
    ('encoder/.*/(query|wi.*)', functools.partial(LoRA, 2, 5.0)),
    ('decoder/.*/(value|out|wo)', functools.partial(LoRA, 3, 1.5)),
  ],
  'prefix': [
    ('decoder/.*/self_attention/ahead', functools.partial(KeyValues, 7))
  ],
}
_WRITTEN = {  # which of them on which base
  't5_1_1': ('prompt', 'ia3', 'lora'),
  't5_1_0': ('prompt', 'ia3', 'lora'),
  'even': ('prefix',),
}


@pytest.fixture(scope='module')
def made(torch_side, tmp_path_factory):
  """A folder with the bases, adapters and logits that PEFT made."""
  folder = tmp_path_factory.mktemp('peft')
  np.savez(folder / 'batch.npz', **tiny.batch(rows=5, vocab_size=269))
  torch_side('make', folder)
  return folder


def _logits(folder, base, prompt=None, inserts=None):
  """Our logits of a base with a prompt file or an inserts file."""
  path = str(folder / base)
  model, flat, _ = tuned.assemble(
    pretrained.config_of(path), path, prompt, 'bytes', inserts=inserts
  )
  batch = dict(np.load(folder / 'batch.npz'))
  return np.asarray(jax.jit(functools.partial(forward, model))(flat, batch))


def _apart(folder, name, ours) -> float:
  """The largest difference to PEFT's logits, where there is a target."""
  real = np.load(folder / 'batch.npz')['decoder_target_tokens'] > 0
  theirs = np.load(folder / f'{name}.npy')
  return float(np.abs(ours - theirs)[real].max())


def _same(folder, name, base, ours) -> None:
  apart = _apart(folder, name, ours)
  moved = _apart(folder, base, ours)
  print(f'{name}: {apart:.1e} from PEFT, {moved:.1e} from the bare base')
  assert apart <= _TOLERANCE
  assert moved > 100 * _TOLERANCE  # the adapter does something


@pytest.mark.parametrize('base', ['t5_1_1', 't5_1_0', 'even'])
def test_the_bare_base(made, base):
  assert _apart(made, base, _logits(made, base)) <= _TOLERANCE


@pytest.mark.parametrize('kind', _PROMPTS)
@pytest.mark.parametrize('base', ['t5_1_1', 't5_1_0'])
def test_a_prompt_from_peft(made, tmp_path, base, kind):
  name, out = f'{base}_{kind}', str(tmp_path / 'prompt.npy')
  model = str(made / base)
  paths, _ = convert.convert(str(made / name), out, model=model)
  assert paths == [out]
  _same(made, name, base, _logits(made, base, prompt=out))


@pytest.mark.parametrize(
  ('base', 'kind'),
  [
    *itertools.product(('t5_1_1', 't5_1_0'), _INSERTS),
    *itertools.product(('even',), ('prefix', 'prefix_of_a_network')),
  ],
)
def test_inserts_from_peft(made, tmp_path, base, kind):
  name, model = f'{base}_{kind}', str(made / base)
  source, out = str(made / name), str(tmp_path / 'out')
  paths, _ = convert.convert(source, out, model=model)
  _same(made, name, base, _logits(made, base, inserts=paths[0]))


@pytest.fixture(scope='module')
def answered(made, torch_side):
  """A folder with adapters that we wrote, and PEFT's logits of them."""
  folder = made / 'ours'
  rng = np.random.default_rng(7)
  for base, kinds in _WRITTEN.items():
    model = str(made / base)
    config = pretrained.config_of(model)
    if 'prompt' in kinds:
      rows = rng.normal(size=(7, 13)).astype(np.float32)
      saved.save(folder / f'{base}_prompt.in.npy', rows, {})
    for kind in set(kinds) - {'prompt'}:
      table = _OURS[kind]
      plain = PromptEncoderDecoder(config, table)
      flat = {
        path: rng.normal(float('scale' in path), 0.4, leaf.shape)
        for path, leaf in saved_inserts.own(abstract(plain)[0]).items()
      }
      saved_inserts.save(folder / f'{base}_{kind}.in', table, flat, {})
    for kind in kinds:
      end = '.in.npy' if kind == 'prompt' else '.in'
      source, out = folder / f'{base}_{kind}{end}', folder / f'{base}_{kind}'
      convert.convert(str(source), str(out), target='peft', model=model)
  np.savez(folder / 'batch.npz', **np.load(made / 'batch.npz'))
  torch_side('answer', folder)
  return folder


@pytest.mark.parametrize(
  ('base', 'kind'),
  [(base, kind) for base, kinds in _WRITTEN.items() for kind in kinds],
)
def test_ours_in_peft(made, answered, base, kind):
  name = f'{base}_{kind}'
  if kind == 'prompt':
    ours = _logits(made, base, prompt=str(answered / f'{name}.in.npy'))
  else:
    file = answered / f'{name}.in' / 'inserts.npz'
    ours = _logits(made, base, inserts=str(file))
  moved = _apart(made, base, ours)
  apart = _apart(answered, name, ours)
  print(f'{name}: {apart:.1e} from PEFT, {moved:.1e} from the bare base')
  assert apart <= _TOLERANCE
  assert moved > 100 * _TOLERANCE
