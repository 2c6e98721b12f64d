"""`prompt-jax convert`: formats are told apart, nothing is overwritten."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from prompt_jax import cli, convert, tuned
from prompt_jax.errors import UserError
from prompt_jax.inserts import saved as saved_inserts
from prompt_jax.prompts import saved
from prompt_jax.t5 import pretrained
from tests import tiny
from tests.interop import adapters, torch_archive
from tests.t5.bases import weights, write_native

ROWS = adapters.random(3, 7)  # as wide as the tiny base


def _tiny_adapter(folder, width=7) -> str:
  """LoRA for the base of `tiny`, or for one of another width."""
  key = adapters.KEY
  tensors = {
    f'{key}.lora_A.weight': adapters.random(2, width),
    f'{key}.lora_B.weight': adapters.random(15, 2),
  }
  return adapters.write(folder, 'LORA', tensors, **adapters.LORA)


def _write(format_, folder) -> str:
  """ROWS in a format."""
  folder.mkdir()
  path = str(folder / 'encoder.prompt.prompt.prompt')
  if format_ == 'npy':
    with open(path, 'wb') as file:
      np.save(file, ROWS)
  elif format_ == 'npz':
    with open(path, 'wb') as file:
      np.savez(file, task=ROWS)
  elif format_ == 'torch':
    torch_archive.write_arrays(path, ROWS)
  elif format_ == 't5x':
    arrays = {**weights(), 'encoder/prompt/prompt/prompt': ROWS}
    write_native(folder / 'checkpoint_7', arrays)
    with pytest.raises(UserError, match='is a run with 1 checkpoints'):
      convert.convert(str(folder), str(folder / 'a.npy'))
    return str(folder / 'checkpoint_7')
  else:
    tensors = {'prompt_embeddings': ROWS}
    settings = {'num_virtual_tokens': 3, 'token_dim': 7}
    return adapters.write(folder / 'a', 'PROMPT_TUNING', tensors, **settings)
  return path


@pytest.mark.parametrize('format_', ['npy', 'npz', 'torch', 't5x', 'peft'])
def test_a_prompt_of_every_format(tmp_path, format_, capsys):
  source = _write(format_, tmp_path / 'in')
  assert convert.detect(source) == format_
  out, folder = str(tmp_path / 'out' / 'a.npy'), str(tmp_path / 'peft')
  assert cli.main(['convert', source, out]) == 0
  printed = capsys.readouterr()
  assert printed.out == f'{out}\n' and 'No base is written down' in printed.err
  array, about = saved.load(out)
  np.testing.assert_array_equal(array, ROWS)
  assert about['converted_from']['format'] == format_
  assert (about['length'], about['width'], about['stack']) == (3, 7, 'encoder')
  # and through PEFT, bit by bit
  assert cli.main(['convert', out, folder, '--to', 'peft']) == 0
  back = str(tmp_path / 'back.npy')
  assert cli.main(['convert', folder, back, '--from=peft']) == 0
  np.testing.assert_array_equal(np.load(back), ROWS)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    *('back.json', 'back.npy', 'in', 'out', 'peft')
  ]


def test_inserts_there_and_back(tmp_path):
  source = _tiny_adapter(tmp_path / 'a')
  paths, _ = convert.convert(source, str(tmp_path / 'b'), model=tiny.base())
  assert paths == [str(tmp_path / 'b' / 'inserts.npz')]
  assert sorted(p.name for p in (tmp_path / 'b').iterdir()) == [
    'inserts.json',
    'inserts.npz',
  ]
  _, arrays, about = saved_inserts.load(paths[0])
  assert about['base'] == 'base'
  for start in tmp_path / 'b', paths[0]:
    assert convert.detect(str(start)) == 'inserts'
  convert.convert(str(tmp_path / 'b'), str(tmp_path / 'c'), target='peft')
  again, _ = convert.convert(str(tmp_path / 'c'), str(tmp_path / 'inserts.npz'))
  assert again == [str(tmp_path / 'inserts.npz')]
  for name, array in saved_inserts.load(again[0])[1].items():
    np.testing.assert_array_equal(array, arrays[name], name)


@pytest.mark.parametrize('adapter', [True, False])
def test_what_was_bound_to_a_base_loads_on_it_alone(tmp_path, adapter):
  """The digest is the one that loading a base computes."""
  if adapter:
    source, out = _tiny_adapter(tmp_path / 'a'), str(tmp_path / 'b')
  else:
    source, out = _write('npy', tmp_path / 'a'), str(tmp_path / 'b.npy')
  [path], notes = convert.convert(source, out, model=tiny.base())
  assert not notes
  given = {'inserts' if adapter else 'prompt': path}
  config = pretrained.config_of(tiny.base())
  fill = {'prompt': None, **given}
  tuned.assemble(config, tiny.base(), vocabulary='bytes', **fill)
  side = pathlib.Path(path).with_suffix('.json')
  about = json.loads(side.read_text())
  side.write_text(json.dumps({**about, 'base_digest': 'other'}))
  with pytest.raises(UserError, match='base_digest other'):
    tuned.assemble(config, tiny.base(), vocabulary='bytes', **fill)
  with pytest.raises(UserError, match='base_digest other; expected'):
    convert.convert(path, str(tmp_path / 'c'), model=tiny.base())


def test_another_width_than_the_model(tmp_path):
  wide = str(tmp_path / 'wide.npy')
  saved.save(wide, adapters.random(3, 11), {})
  with pytest.raises(UserError, match=r'a prompt \[3, 11\]; expected \[P, 7\]'):
    convert.convert(wide, str(tmp_path / 'b.npy'), model=tiny.base())
  source = _tiny_adapter(tmp_path / 'a', width=11)
  with pytest.raises(UserError) as caught:
    convert.convert(source, str(tmp_path / 'b'), model=tiny.base())
  assert 'lora_a is (11, 2), expected (7, 2)' in str(caught.value)
  deep = adapters.lora(tmp_path / 'deep')
  with pytest.raises(UserError, match='left over .*layers_1/mlp/wo_insert'):
    convert.convert(deep, str(tmp_path / 'b'), model=tiny.base())
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    *('a', 'deep', 'wide.json', 'wide.npy')
  ]


def test_a_base_of_another_kind(tmp_path):
  base = write_native(tmp_path / 'base', {'encoder/other': ROWS})
  source = _write('npy', tmp_path / 'a')
  with pytest.raises(UserError, match='has no token_embedder/embedding'):
    convert.convert(source, str(tmp_path / 'b.npy'), model=base)


def test_bfloat16_of_peft(tmp_path):
  half = ROWS.astype(ml_dtypes.bfloat16)
  folder = _write('peft', tmp_path / 'in')
  file = pathlib.Path(folder) / 'adapter_model.safetensors'
  save_file({'prompt_embeddings': half}, file)
  convert.convert(folder, str(tmp_path / 'a.npy'))
  found = np.load(tmp_path / 'a.npy')
  np.testing.assert_array_equal(found, half.astype(np.float32))


def test_nothing_is_overwritten(tmp_path):
  source = _write('npy', tmp_path / 'in')
  (tmp_path / 'a.json').write_text('mine')
  with pytest.raises(UserError, match='a.json exists; expected a name'):
    convert.convert(source, str(tmp_path / 'a.npy'))
  assert (tmp_path / 'a.json').read_text() == 'mine'
  adapter = _tiny_adapter(tmp_path / 'b')
  (tmp_path / 'inserts.json').write_text('mine')
  with pytest.raises(UserError, match='inserts.json exists'):
    convert.convert(adapter, str(tmp_path))


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--to', 'inserts'], 'What was read is a prompt; expected --to npy'),
    (['--key', 'task'], "--key is 'task', but"),
    (['--from', 'npz'], 'is not a readable .npz file'),
  ],
)
def test_flags_that_do_not_fit(tmp_path, capsys, flags, words):
  source = _write('npy', tmp_path / 'in')
  assert cli.main(['convert', source, str(tmp_path / 'a.npy'), *flags]) == 2
  assert words in capsys.readouterr().err


def test_a_prompt_needs_a_name_that_ends_in_npy(tmp_path):
  source = _write('npy', tmp_path / 'in')
  with pytest.raises(UserError, match='a name that ends in .npy'):
    convert.convert(source, str(tmp_path / 'a'))


def test_what_is_no_known_format(tmp_path):
  with pytest.raises(UserError, match='no adapter or prompt; .* There is: not'):
    convert.detect(str(tmp_path))
  (tmp_path / 'a.pkl').write_bytes(b'\x80\x02}.')
  with pytest.raises(UserError, match='A pickle, or a file of torch before'):
    convert.detect(str(tmp_path / 'a.pkl'))
  with pytest.raises(
    UserError, match="'peff'; expected one of .*Nearest: peft"
  ):
    convert.convert('a', str(tmp_path / 'b.npy'), 'peff')
  with pytest.raises(UserError, match=r'b.npy does not exist.*Nearest.*a.pkl'):
    convert.detect(str(tmp_path / 'b.npy'))
