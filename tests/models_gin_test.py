"""The model files build the published sizes and do not repeat each other."""

import collections
import itertools
import pathlib

import gin
import pytest

from prompt_jax import ginfiles
from prompt_jax.t5.config import T5Config

_GIN = pathlib.Path(__file__).parents[1] / 'gin'

# Parameters of the published models, by the formula of `_count`; the totals
# agree with the trees that T5X builds from its own files.
_SIZES = {
  't5_small': 60_506_624,
  't5_base': 222_903_552,
  't5_large': 737_668_096,
  't5_3b': 2_851_598_336,
  't5_11b': 11_307_321_344,
  't5_1_1_small': 76_961_152,
  't5_1_1_base': 247_577_856,
  't5_1_1_large': 783_150_080,
  't5_1_1_xl': 2_849_757_184,
  't5_1_1_xxl': 11_135_332_352,
  'mt5_small': 300_176_768,
  'mt5_base': 582_401_280,
  'mt5_large': 1_229_581_312,
  'mt5_xl': 3_742_619_648,
  'mt5_xxl': 12_921_057_280,
  'byt5_small': 299_637_760,
  'byt5_base': 581_653_248,
  'byt5_large': 1_228_183_552,
  'byt5_xl': 3_737_801_728,
  'byt5_xxl': 12_906_899_328,
}
_ADAPTED = {
  name.replace('t5_1_1', 't5_1_1_lm100k'): count
  for name, count in _SIZES.items()
  if name.startswith('t5_1_1')
}
_PUBLIC = _SIZES | _ADAPTED
_ORIGINAL = ('t5_small', 't5_base', 't5_large', 't5_3b', 't5_11b')
_STEPS = {'t5_base': 999_900, 't5_large': 1_000_700}


def _config(name):
  ginfiles.parse([f'models/{name}.gin'], ['DROPOUT_RATE=0.1'])
  return gin.get_configurable(T5Config)()


def _count(config):
  """Scalars of one T5: embeddings, two stacks, final norms, two biases."""
  width = config.d_model
  attention = 4 * width * config.num_heads * config.d_kv
  mlp = (len(config.mlp_activations) + 1) * width * config.d_ff
  encoder = attention + mlp + 2 * width
  decoder = 2 * attention + mlp + 3 * width
  tables = 1 if config.tied_logits else 2
  return (
    tables * config.vocab_size * width
    + config.num_encoder_layers * encoder
    + config.num_decoder_layers * decoder
    + 2 * width
    + 2 * config.relpos_num_buckets * config.num_heads
  )


def _macro(name):
  return gin.query_parameter(f'{name}/gin.macro.value')


@pytest.mark.parametrize('name', _PUBLIC)
def test_parameter_count(name):
  config = _config(name)
  assert _count(config) == _PUBLIC[name]
  header = (_GIN / 'models' / f'{name}.gin').read_text().splitlines()[0]
  assert header.startswith(f'# {_PUBLIC[name]:,} parameters; ')
  assert _macro('ACTIVATION_DTYPE') == 'auto'
  assert config.dropout_rate == 0.1
  assert config.remat == 'none'
  assert config.is_gated != (name in _ORIGINAL)
  assert config.tied_logits != config.is_gated


@pytest.mark.parametrize('name', _PUBLIC)
def test_checkpoint_and_vocabulary(name):
  _config(name)
  *_, folder, step = _macro('INITIAL_CHECKPOINT_PATH').split('/')
  assert folder.lower() == name
  default = 1_100_000 if 'lm100k' in name else 1_000_000
  assert step == f'checkpoint_{_STEPS.get(name, default)}'
  family = name.split('_')[0]
  rows = {'t5': 'cc_all.32000', 'mt5': 'mc4.250000', 'byt5': 'bytes'}[family]
  assert rows in _macro('VOCABULARY')
  assert _macro('NUM_EMBEDDINGS') % 128 == 0


def test_every_public_size_has_a_file():
  names = {pathlib.Path(each).stem for each in ginfiles.available('models')}
  assert names >= _PUBLIC.keys()


@pytest.mark.parametrize('name', ['t5_base', 't5_1_1_lm100k_xxl', 'byt5_xl'])
def test_only_run_files_read_the_data_macros(name):
  unread = ginfiles.unread([f'models/{name}.gin'], ['DROPOUT_RATE=0.1'])
  assert unread == ['INITIAL_CHECKPOINT_PATH', 'VOCABULARY']


def _models():
  return sorted((_GIN / 'models').rglob('*.gin'))


def test_files_are_short():
  for path in _models():
    assert len(path.read_text().splitlines()) <= 40, path


def test_no_two_files_share_nine_tenths_of_their_lines():
  lines = {path: path.read_text().split('\n') for path in _models()}
  counted = {
    path: collections.Counter(filter(None, text))
    for path, text in lines.items()
  }
  for (one, left), (two, right) in itertools.combinations(counted.items(), 2):
    shared = (left & right).total() / min(left.total(), right.total())
    assert shared < 0.9, f'{one} and {two} share {shared:.0%} of their lines'
