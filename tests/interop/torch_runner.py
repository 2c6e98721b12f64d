"""The side of torch and PEFT in the tests that are marked `interop`.

torch_runner.py make FOLDER     bases, adapters of them and their logits
torch_runner.py answer FOLDER   the logits of adapters that are there
torch_runner.py save FOLDER     files of torch.save, and the same as .npz
"""

import json
import pathlib
import sys

import numpy as np
import peft
import torch
import transformers

_SIZES = dict(
  vocab_size=269,
  d_model=13,
  d_kv=5,
  d_ff=17,
  num_heads=3,
  num_layers=2,
  num_decoder_layers=3,
  relative_attention_num_buckets=8,
  relative_attention_max_distance=19,
  dropout_rate=0.0,
)
_BASES = {
  't5_1_1': dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False),
  't5_1_0': dict(feed_forward_proj='relu', tie_word_embeddings=True),
  # what PEFT's prefixes need: heads as wide as the model, as many layers
  'even': dict(
    feed_forward_proj='relu',
    tie_word_embeddings=True,
    d_model=15,
    num_layers=3,
  ),
}
_TASK = peft.TaskType.SEQ_2_SEQ_LM
_ALL = ['q', 'k', 'v', 'o', 'wi', 'wi_0', 'wi_1', 'wo']
_ADAPTERS = {
  'prompt': lambda: peft.PromptTuningConfig(
    task_type=_TASK, num_virtual_tokens=7, num_transformer_submodules=1
  ),
  'prompt_of_two_parts': lambda: peft.PromptTuningConfig(
    task_type=_TASK, num_virtual_tokens=7
  ),
  'p_tuning': lambda: peft.PromptEncoderConfig(
    task_type=_TASK, num_virtual_tokens=7, encoder_hidden_size=11
  ),
  'prefix': lambda: peft.PrefixTuningConfig(
    task_type=_TASK, num_virtual_tokens=7
  ),
  'prefix_of_a_network': lambda: peft.PrefixTuningConfig(
    task_type=_TASK,
    num_virtual_tokens=7,
    prefix_projection=True,
    encoder_hidden_size=11,
  ),
  'ia3': lambda: peft.IA3Config(task_type=_TASK),
  'ia3_everywhere': lambda: peft.IA3Config(
    task_type=_TASK, target_modules=_ALL, feedforward_modules=[]
  ),
  'lora': lambda: peft.LoraConfig(task_type=_TASK, r=2, lora_alpha=5),
  'lora_everywhere': lambda: peft.LoraConfig(
    task_type=_TASK,
    r=2,
    lora_alpha=1,
    use_rslora=True,
    target_modules=_ALL,
    rank_pattern={'v': 3, 'decoder.block.1.layer.2.DenseReluDense.wo': 4},
    alpha_pattern={'.*EncDecAttention.*': 2},
  ),
}


def _base(folder: pathlib.Path):
  model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
  return model.eval()


def _logits(model, batch):
  tokens = torch.from_numpy(batch['encoder_input_tokens']).long()
  given = torch.from_numpy(batch['decoder_input_tokens']).long()
  with torch.no_grad():
    mask = (tokens > 0).long()
    made = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=given)
  return made.logits.numpy()


def _make(folder: pathlib.Path) -> None:
  batch = np.load(folder / 'batch.npz')
  for base, settings in _BASES.items():
    torch.manual_seed(len(base))
    config = transformers.T5Config(**_SIZES | settings)
    model = transformers.T5ForConditionalGeneration(config)
    for name, weight in model.named_parameters():
      if 'norm' in name or 'relative' in name:
        weight.data += 0.5 * torch.randn_like(weight)
    if not settings['tie_word_embeddings']:
      # transformers 5 ties a new T5 1.1 too; the released ones are not
      head = torch.randn_like(model.lm_head.weight)
      model.lm_head.weight = torch.nn.Parameter(head)
      model.config.tie_word_embeddings = False
    model.save_pretrained(folder / base)
    np.save(folder / f'{base}.npy', _logits(_base(folder / base), batch))
    for name, make in _ADAPTERS.items():
      if name.startswith('prefix') != (base == 'even'):
        continue
      tuned = peft.get_peft_model(_base(folder / base), make()).eval()
      for weight in tuned.parameters():
        if weight.requires_grad:
          weight.data += 0.2 * torch.randn_like(weight)
      tuned.save_pretrained(folder / f'{base}_{name}')
      np.save(folder / f'{base}_{name}.npy', _logits(tuned, batch))


def _answer(folder: pathlib.Path) -> None:
  batch = np.load(folder / 'batch.npz')
  for config in sorted(folder.glob('*/adapter_config.json')):
    base = json.loads(config.read_text())['base_model_name_or_path']
    tuned = peft.PeftModel.from_pretrained(_base(base), config.parent)
    np.save(f'{config.parent}.npy', _logits(tuned.eval(), batch))


def _save(folder: pathlib.Path) -> None:
  x = torch.randn(5, 7)
  state = {
    'plain': x,
    'turned': x.T,
    'part': x[1:4, ::2],
    'parameter': torch.nn.Parameter(x + 1),
    'half': x.half(),
    'double': x.double(),
    'bfloat16': x.bfloat16(),
    'nothing': torch.zeros(0, 7),
    'nested': {'step': 3, 'rates': [0.1, None, True], 'long': x.long()},
  }
  torch.save(state, folder / 'state.pt')
  torch.save(state, folder / 'protocol_4.pt', pickle_protocol=4)
  module = torch.nn.Linear(5, 7)
  torch.save(module.state_dict(), folder / 'module.pt')
  torch.save(x, folder / 'alone.pt')
  torch.save(x, folder / 'legacy.pt', _use_new_zipfile_serialization=False)
  torch.save(module, folder / 'whole_module.pt')
  state |= {'nested.long': state.pop('nested')['long']}
  arrays = lambda tensors: {
    name: t.detach().to(torch.float64).numpy() for name, t in tensors.items()
  }
  np.savez(folder / 'state.npz', **arrays(state))
  np.savez(folder / 'module.npz', **arrays(module.state_dict()))
  np.savez(folder / 'alone.npz', **arrays({'': x}))


if __name__ == '__main__':
  commands = {'make': _make, 'answer': _answer, 'save': _save}
  commands[sys.argv[1]](pathlib.Path(sys.argv[2]))
