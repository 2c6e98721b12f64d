"""The profile says what the work of a step is for."""

import json

import pytest

from benchmarks import profile

_TINY = [
  '--model=mini',
  '--gin.NUM_EMBEDDINGS=521',
  '--gin.EMBED_DIM=31',
  '--gin.MLP_DIM=37',
  '--gin.NUM_HEADS=3',
  '--gin.HEAD_DIM=7',
  '--batch=3',
  '--inputs=11',
  '--targets=5',
  '--repeats=2',
]
_TEXT = """HloModule jit_step
%fused (p: f32[3]) -> f32[3] {
  %p = f32[3]{0} parameter(0)
  %dot.1 = f32[3]{0} dot(%p, %p), metadata={op_name="DOT"}
  ROOT %mul.7 = f32[3]{0} multiply(%p, %p), metadata={op_name="jit(step)/x"}
}
ENTRY %main.9 (a: f32[3]) -> f32[3] {
  %a = f32[3]{0} parameter(0)
  %ynn_fusion.2 = f32[3]{0} fusion(%a), kind=kCustom, calls=%fused, WHERE
  ROOT %add.3 = f32[3]{0} add(%a, %a), metadata={op_name="jit(step)/add"}
}
"""
_TEXT = _TEXT.replace('DOT', 'jit(step)/jvp(T5)/layers_0/mlp/wi_0/dot_general')
_NORM = 'jit(step)/jvp(T5)/layers_0/pre_mlp_layer_norm/reduce_sum'
_TEXT = _TEXT.replace('WHERE', f'metadata={{op_name="{_NORM}"}}')


def test_names_and_products_of_a_program():
  paths = profile.names(_TEXT)
  assert paths['add.3'] == 'jit(step)/add'
  assert paths['ynn_fusion.2'].endswith('mlp/wi_0/dot_general')
  assert paths['mul.7'] == 'jit(step)/x'
  found = profile.products(_TEXT)
  assert found == {'dot.1': 'dot.1', 'ynn_fusion.2': 'dot.1'}


@pytest.mark.parametrize(
  ('path', 'multiplies', 'kind'),
  [
    ('encoder/layers_0/attention/query/dot_general', True, 'products'),
    ('encoder/layers_0/attention/dot_general', True, 'attention'),
    ('decoder/layers_0/encoder_decoder_attention/exp', False, 'softmax'),
    ('decoder/layers_0/self_attention/out/dot_general', True, 'products'),
    ('encoder/layers_1/pre_mlp_layer_norm/mul', False, 'norms'),
    ('encoder/layers_1/mlp/tanh', False, 'activations'),
    ('encoder/layers_1/mlp/wo/dot_general', True, 'products'),
    ('encoder/token_embedder/gather', False, 'embedding'),
    ('decoder/logits_dense/dot_general', True, 'logits'),
    ('encoder/layers_1/add', False, 'residual'),
    ('reduce_max', False, 'loss'),
  ],
)
def test_kinds(path, multiplies, kind):
  whole = f'jit(step)/transpose(jvp(PromptEncoderDecoder))/{path}'
  assert profile.kind(whole, multiplies) == kind


def test_what_is_outside_of_the_gradient_updates():
  assert profile.kind('jit(step)/mul', False) == 'optimizer'
  assert profile.kind('', False) == 'other'


def test_sums_are_a_step():
  paths = {'a': 'jit(s)/jvp(T5)/mlp/mul', 'b': 'jit(s)/transpose(jvp(T5))/mlp'}
  events = [('a', 1.0), ('b', 3.0), ('a', 5.0), ('while.3', 100.0)]
  made = profile.summed(events, paths, set(), repeats=2)
  assert made == {
    'activations': {'forward': 3.0, 'backward': 1.5, 'operations': 1.5}
  }


@pytest.mark.slow
def test_a_tiny_step(capsys):
  assert profile.main([*_TINY, '--dtype=float32']) == 0
  said = capsys.readouterr()
  (line,) = said.out.splitlines()
  row = json.loads(line)
  kinds = row['kinds']
  assert {'products', 'attention', 'norms', 'optimizer'} <= kinds.keys()
  total = sum(each['forward'] + each['backward'] for each in kinds.values())
  assert total > 0 and row['flops'] > 0 and row['bytes_accessed'] > 0
  named = total - sum(kinds.get('other', {}).get(k, 0.0) for k in ('forward',))
  assert named > 0.8 * total
  assert kinds['products']['backward'] > 0
  assert 'products with matrices of the base' in said.err
  assert profile.main([*_TINY, '--repeats=0']) == 2
  assert '--repeats is 0' in capsys.readouterr().err
