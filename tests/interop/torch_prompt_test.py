"""Prompts of ATTEMPT and Prompt-Transferability in files of torch.save."""

import numpy as np
import pytest

from prompt_jax.errors import UserError
from prompt_jax.interop import torch_prompt
from tests.interop import torch_archive as archive

ROWS = np.arange(35, dtype=np.float32).reshape(5, 7)


@pytest.mark.parametrize(
  'name, arrays',
  [
    ('prefix_embeddings_cb.pt', ROWS),
    ('task_prompt', ROWS),
    ('3_task_prompt.pkl', {'model': ROWS, 'exp_avg': ROWS + 1}),
    ('best.pt', {'prompt_model.template.soft_embeds': ROWS}),
    ('a.pt', {'norm': ROWS[0], 'encoder.prompt_embeddings.weight': ROWS}),
    ('b.pt', {'norm': ROWS[0], 'table': ROWS}),
  ],
)
def test_the_prompt_is_found(tmp_path, name, arrays):
  path = archive.write_arrays(tmp_path / name, arrays)
  np.testing.assert_array_equal(torch_prompt.read(path).array, ROWS)


def test_a_key_names_one_of_several(tmp_path):
  path = archive.write_arrays(tmp_path / 'a.pt', {'one': ROWS, 'two': -ROWS})
  np.testing.assert_array_equal(torch_prompt.read(path, 'two').array, -ROWS)
  with pytest.raises(UserError, match=r'holds 2 prompts.*Name one with --key'):
    torch_prompt.read(path)
  with pytest.raises(UserError, match=r"no tensor 'tow'.*'two' \[5, 7\]"):
    torch_prompt.read(path, 'tow')


def test_a_tensor_of_other_axes(tmp_path):
  arrays = {'mul_prefix_emb': ROWS.reshape(1, 5, 7)}
  path = archive.write_arrays(tmp_path / 'a.pt', arrays)
  with pytest.raises(UserError, match='holds 0 prompts'):
    torch_prompt.read(path)
  with pytest.raises(UserError, match=r'is \[1, 5, 7\]; expected \[P, H\]'):
    torch_prompt.read(path, 'mul_prefix_emb')


def test_attention_is_no_prompt(tmp_path):
  path = archive.write_arrays(tmp_path / 'attn_W_down.pt', ROWS)
  with pytest.raises(UserError, match='a part of the attention of ATTEMPT'):
    torch_prompt.read(path)
  np.testing.assert_array_equal(torch_prompt.read(path, '').array, ROWS)
