"""What each method trains at public sizes: the numbers of the papers.

Shapes alone: nothing is loaded, `gin/models` and `gin/methods` are what a
user has.
"""

import functools

import gin
import pytest

from prompt_jax import ginfiles, params, prompted
from prompt_jax.training import state as states

_RUN = {'MIXTURE_OR_TASK_NAME': "'t'", 'MODEL_DIR': "'/nowhere'"}
_SIX = "['a.npy', 'b.npy', 'c.npy', 'd.npy', 'e.npy', 'f.npy']"
# Layers of T5 base: 12 of the encoder, 12 of the decoder.
_H, _L, _F = 768, 12, 3072


@functools.cache
def _traced(model, method, *given):
  """(shapes {path: shape}, train table) of a model with a method."""
  files = [f'models/{model}.gin', f'methods/{method}.gin', 'runs/train.gin']
  said = [f'{name}={value}' for name, value in _RUN.items()]
  ginfiles.parse(files, [*said, *given])
  made = gin.get_configurable(prompted.PromptEncoderDecoder)()
  return states.abstract(made)[0], gin.query_parameter('train.Run.table')


def _trains(*case):
  shapes, table = _traced(*case)
  return params.count(params.split(shapes, _values(table))[0])


def _values(table):
  """The table with rates for macros, which counting does not read."""
  return [(pattern, 1.0) for pattern, _ in table]


# {case: published number}, each with its source
PUBLISHED = {
  # Lester et al. 2021, released configurations: 100 rows
  ('t5_1_1_lm100k_small', 'prompt', 'PROMPT_LENGTH=100'): 51_200,
  ('t5_1_1_lm100k_base', 'prompt', 'PROMPT_LENGTH=100'): 76_800,
  # Asai et al. 2022, section 4.2: 232K for one target, 96K a task of eight
  ('t5_base', 'attempt', f'SOURCE_PROMPTS={_SIX}'): 231_936,
  (
    't5_base',
    'attempt_multi',
    'NUM_TASKS=8',
    f'SOURCE_PROMPTS={_SIX}',
  ): 8 * 96_192,
  # Wang et al. 2023, table 1: 77.6K a task
  ('t5_base', 'mpt', 'NUM_TASKS=1'): 77_668,
  # Razdaibiedina et al. 2023, released code: 10 rows, bottleneck 800
  ('t5_base', 'residual'): 1_239_584,
  # Su et al. 2022, released code: base to base, 100 rows and 768 units
  (
    't5_base',
    'projected',
    "SOURCE_PROMPTS=['a.npy']",
    'projected.Projected.source_length=100',
    'projected.Projected.source_width=768',
  ): 118_043_904,
  # PEFT's `print_trainable_parameters` of T5 base at rank 8
  ('t5_1_1_base', 'lora'): 884_736,
  # Raffel et al. 2020, section 2.1: about 220 million
  ('t5_base', 'full'): 222_903_552,
}


@pytest.mark.parametrize('case', PUBLISHED, ids=lambda case: '-'.join(case[:2]))
def test_published(case):
  assert _trains(*case) == PUBLISHED[case]


@pytest.mark.slow  # traces 48 layers
def test_ia3_of_three_billion():
  """Liu et al. 2022, section 3.3: 540K of T0-3B, which has the shape of XL."""
  heads, mlp, layers = 32 * 64, 5120, 24
  formula = layers * (2 * heads + mlp) + layers * (4 * heads + mlp)
  assert formula == 540_672
  assert _trains('t5_1_1_lm100k_xl', 'ia3') == formula


FORMULAS = {
  # Liu et al. 2022, section 3.3: L (dk + dv + dff), twice dk, dv below
  ('t5_base', 'ia3'): _L * (2 * _H + _F) + _L * (4 * _H + _F),
  # Houlsby et al. 2019, section 2.1: 2 m d + d + m, after self attention and
  # MLP; the 1.9M of Asai et al. 2022 are these and 62 layer norms
  ('t5_base', 'adapter_houlsby'): 4 * _L * (2 * 24 * _H + _H + 24),
  ('t5_base', 'adapter_pfeiffer'): 2 * _L * (2 * 48 * _H + _H + 48),
  # query, value and out of three attentions; wi and wo of two MLPs
  ('t5_base', 'bitfit'): _L * (3 * 3 * _H + 2 * (_F + _H)),
  ('t5_base', 'per_layer'): _L * 10 * _H,
  ('t5_base', 'per_layer_both'): 2 * _L * 10 * _H,
}


@pytest.mark.parametrize('case', FORMULAS, ids='-'.join)
def test_formulas_of_the_papers(case):
  assert _trains(*case) == FORMULAS[case]


def test_adapters_and_norms_are_the_baseline_of_attempt():
  norms = _L * 2 + _L * 3 + 2
  adapters = FORMULAS['t5_base', 'adapter_houlsby']
  assert round((adapters + norms * _H) / 1e6, 1) == 1.9


def test_bitfit_and_the_places_without_a_site_are_the_baseline_of_attempt():
  """Asai et al. 2022, table 1: 280K, keys, norms and logits among them."""
  keys, norms, logits = 3 * _L * _H, (_L * 2 + _L * 3 + 2) * _H, 32_128
  whole = FORMULAS['t5_base', 'bitfit'] + keys + norms + logits
  assert round(whole / 1e3, -1) == 280


def test_attempt_without_its_layer_norm_is_what_the_released_code_trains():
  case = ('t5_base', 'attempt', f'SOURCE_PROMPTS={_SIX}')
  table = [('encoder/prompt/targets/.*', 1.0)]
  table.append(('encoder/prompt/query/(down|up)/.*', 1.0))
  shapes, _ = _traced(*case)
  assert params.count(params.split(shapes, table)[0]) == 230_400


def test_the_line_at_the_start_of_a_run():
  shapes, table = _traced('t5_base', 'prompt', 'PROMPT_LENGTH=100')
  rates = params.split(shapes, _values(table))[2]
  said = states.summary(shapes, rates)
  assert '76,800 of 222,980,352' in said
