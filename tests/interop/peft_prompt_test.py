"""Prompts of PEFT: which rows are kept, and what is refused."""

import numpy as np
import pytest

from prompt_jax.interop import peft
from tests.interop import adapters


@pytest.mark.parametrize('rows, parts', [(7, 1), (7, None), (14, 2)])
def test_a_prompt(tmp_path, rows, parts):
  folder = adapters.prompt(
    tmp_path / 'a', rows, num_transformer_submodules=parts
  )
  found = peft.read(folder)
  assert found.array.shape == (7, 13)
  np.testing.assert_array_equal(found.array, adapters.random(rows, 13)[:7])
  said = ' '.join(found.notes)
  assert ('14 rows, 7 for the encoder' in said) == (rows == 14)


def test_the_base_is_kept(tmp_path):
  folder = adapters.prompt(tmp_path / 'a', base_model_name_or_path='t5-base')
  assert peft.read(folder).about == {'base': 't5-base'}


@pytest.mark.parametrize(
  'config, words',
  [
    ({'num_virtual_tokens': None}, 'num_virtual_tokens None'),
    ({'num_virtual_tokens': 5}, 'prompt_embeddings with 5 rows'),
    ({'num_transformer_submodules': 3}, 'and 1 or 2'),
    ({'peft_type': 'MULTITASK_PROMPT_TUNING'}, 'depends on the task'),
    ({'peft_type': 'LOHA'}, "peft_type 'LOHA'; expected one of PROMPT_TUNING"),
    ({'peft_type': None}, 'peft_type None'),
    ({'task_type': 'CAUSAL_LM'}, "expected 'SEQ_2_SEQ_LM'"),
  ],
)
def test_prompts_that_are_refused(tmp_path, config, words):
  adapters.refuses(adapters.prompt(tmp_path / 'a', **config), words)
