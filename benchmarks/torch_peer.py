"""The peers' side of peers.py: PEFT's prompt tuning, in their environment.

torch_peer.py make SETTING     a base of random weights, in their layout
torch_peer.py serve SETTING    loads it, then answers a JSON line by a line

SETTING is JSON: {folder, config, dtype, batch, prompt, threads}. Imports
nothing of prompt_jax: its interpreter need not have it.
"""

import json
import os
import pathlib
import resource
import sys
import tempfile
import time

_BEGAN = time.perf_counter()

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


def make(setting: dict) -> None:
  """Saves a T5 of random weights."""
  torch.manual_seed(0)
  config = transformers.T5Config(**setting['config'])
  model = transformers.T5ForConditionalGeneration(config)
  if not setting['config']['tie_word_embeddings']:
    # transformers 5 ties a new T5 1.1 too; the released ones are not
    head = 0.05 * torch.randn_like(model.lm_head.weight)
    model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
  model.save_pretrained(setting['folder'])


class Peer:
  """PEFT's model, and what it is asked to do."""

  def __init__(self, setting: dict):
    torch.set_num_threads(setting['threads'])
    folder = pathlib.Path(setting['folder'])
    began = time.perf_counter()
    base = transformers.T5ForConditionalGeneration.from_pretrained(
      folder, dtype=getattr(torch, setting['dtype'])
    )
    rows = torch.from_numpy(np.load(folder / 'prompt.npy'))
    config = peft.PromptTuningConfig(
      task_type=peft.TaskType.SEQ_2_SEQ_LM,
      num_virtual_tokens=len(rows),
      num_transformer_submodules=1,  # as ours: a prompt of the encoder alone
    )
    # dropout 0, and no gradient of it, as in the other workers
    self.model = peft.get_peft_model(base, config).eval()
    (self.prompt,) = [p for p in self.model.parameters() if p.requires_grad]
    self.prompt.data.copy_(rows)
    self.load_seconds = time.perf_counter() - began
    self.optimizer = torch.optim.AdamW([self.prompt], lr=1e-3)
    batch = np.load(folder / 'batch.npz')
    long = lambda name: torch.from_numpy(batch[name]).long()
    self.inputs, self.targets = long('inputs'), long('targets')
    self.labels = long('labels')
    self.mask = (self.inputs > 0).long()

  def _loss(self, targets):
    return self.model(
      input_ids=self.inputs, attention_mask=self.mask, labels=targets
    )

  def train(self):
    """One update; the mean loss of a token before it."""
    self.optimizer.zero_grad(set_to_none=True)
    loss = self._loss(self.targets).loss
    loss.backward()
    self.optimizer.step()
    return float(loss.detach())

  @torch.no_grad()
  def decode(self):
    """Greedy decoding of as many tokens as targets have."""
    length = self.targets.shape[1]
    made = self.model.generate(
      input_ids=self.inputs,
      attention_mask=self.mask,
      max_new_tokens=length,
      min_new_tokens=length,
      do_sample=False,
      num_beams=1,
    )
    return int(made.shape[1])

  @torch.no_grad()
  def score(self):
    """Each label scored on its own, as a loop over labels does it."""
    best = []
    for label in self.labels:
      targets = label.repeat(len(self.inputs), 1)
      logits = self._loss(targets).logits.float().log_softmax(-1)
      best.append(logits.gather(-1, targets[..., None]).sum((1, 2)))
    return float(torch.stack(best).mean())

  rank = score

  def save(self):
    """Bytes of the files of a saved prompt."""
    with tempfile.TemporaryDirectory() as folder:
      self.model.save_pretrained(folder)
      found = pathlib.Path(folder).rglob('*')
      return sum(f.stat().st_size for f in found if f.name != 'README.md')


def serve(setting: dict) -> None:
  """Answers commands until stdin ends."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever else is printed is no answer

  def answer(value):
    answers.write(json.dumps(value) + '\n')
    answers.flush()

  peer = Peer(setting)
  answer(
    {
      'load_seconds': peer.load_seconds,
      'start_seconds': time.perf_counter() - _BEGAN,
      'versions': f'peft {peft.__version__}, torch {torch.__version__}',
    }
  )
  for line in sys.stdin:
    began, cpu = time.perf_counter(), time.process_time()
    value = getattr(peer, line.strip())()
    answer(
      {
        'seconds': time.perf_counter() - began,
        'cpu': time.process_time() - cpu,
        'value': value,
        'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
      }
    )


if __name__ == '__main__':
  {'make': make, 'serve': serve}[sys.argv[1]](json.loads(sys.argv[2]))
