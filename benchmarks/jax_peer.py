"""Our side of peers.py: the same base, prompt and tokens, the same answers.

    jax_peer.py serve SETTING    see torch_peer.py for the protocol

SETTING has besides: {model, dtype}. The step is the one `prompt-jax train`
runs, as in step.py.
"""

import json
import os
import pathlib
import resource
import sys
import tempfile
import time
import types

_BEGAN = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import step as steps  # noqa: E402
from prompt_jax import batches, export, heap, params, predict  # noqa: E402
from prompt_jax.training import sharding  # noqa: E402
from prompt_jax.training import state as states  # noqa: E402
from prompt_jax.training.program import Program  # noqa: E402
from prompt_jax.training.step import train_step  # noqa: E402


class Peer:
  """Our model, and what it is asked to do."""

  def __init__(self, setting: dict):
    heap.keep()  # as `prompt-jax` does
    folder = pathlib.Path(setting['folder'])
    rows = np.load(folder / 'prompt.npy')
    args = types.SimpleNamespace(
      model=setting['model'],
      method='prompt',
      dtype=setting['dtype'],
      prompt_length=len(rows),
      gin_bindings=setting['bindings'],
    )
    self.run = steps.configured(args)
    began = time.perf_counter()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    shapes, axes = states.abstract(self.run.model)
    places = sharding.shardings(mesh, axes, shapes)
    trains, _, rates = params.split(shapes, self.run.table)
    self.frozen, _ = states.load_base(
      self.run.model, str(folder), trains, places
    )
    jax.block_until_ready(self.frozen)
    self.load_seconds = time.perf_counter() - began
    (path,) = trains
    whole = sharding.replicated(mesh)
    put = lambda tree: jax.device_put(tree, whole)
    trainable = {path: put(rows)}
    self.state = states.State(
      step=put(jnp.zeros((), jnp.int32)),
      trainable=trainable,
      opt_state=put(self.run.optimizer.init(trainable)),
      rng=put(jax.random.key_data(jax.random.key(0))),
    )
    self._read(folder, mesh)
    step = train_step(
      self.run.model, self.run.optimizer, rates, self.run.schedule, z_loss=0.0
    )
    model = self.run.model
    self._step = Program('step', step, donate_argnums=(0,))
    length = self.labels.shape[1]
    self._decode = Program('decoding', predict.decoder(model, length))
    self._rank = Program('ranking', predict.ranker(model))
    self._score = Program('scoring', predict.scorer(model))

  def _read(self, folder: pathlib.Path, mesh) -> None:
    found = np.load(folder / 'batch.npz')
    inputs, ids = found['inputs'], np.zeros(len(found['inputs']), np.int32)
    made = lambda targets: sharding.put_batch(
      mesh, batches.assemble(inputs, targets, ids)
    )
    self.batch, self.labels = made(found['targets']), found['labels']
    self._one = [
      made(np.tile(label, (len(inputs), 1))) for label in self.labels
    ]

  def _flat(self):
    return params.merge(self.state.trainable, self.frozen)

  def train(self):
    """One update; the mean loss of a token before it."""
    self.state, sums = self._step(self.state, self.frozen, self.batch)
    jax.block_until_ready((self.state, sums))
    return float(sums['loss'] / sums['weights'])

  def decode(self):
    """Greedy decoding of as many tokens as targets have."""
    tokens, _ = jax.block_until_ready(self._decode(self._flat(), self.batch))
    return int(tokens.shape[-1])

  def rank(self):
    """All labels of an input at once, as `EVAL_MODE='rank'` does it."""
    scores = self._rank(self._flat(), self.batch, self.labels)
    return float(jnp.mean(jax.block_until_ready(scores)))

  def score(self):
    """Each label scored on its own, as a loop over labels does it."""
    found = [self._score(self._flat(), batch) for batch in self._one]
    return float(jnp.mean(jnp.stack(jax.block_until_ready(found))))

  def save(self):
    """Bytes of the files of a saved prompt."""
    with tempfile.TemporaryDirectory() as folder:
      flat = jax.device_get(self.state.trainable)
      export.write(folder, self.run.model, flat, ['task'], {})
      return sum(f.stat().st_size for f in pathlib.Path(folder).iterdir())


def serve(setting: dict) -> None:
  """Answers commands until stdin ends."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever else is printed is no answer

  def answer(value):
    answers.write(json.dumps(value) + '\n')
    answers.flush()

  peer = Peer(setting)
  dtype = peer.run.model.config.activation_dtype
  answer(
    {
      'load_seconds': peer.load_seconds,
      'start_seconds': time.perf_counter() - _BEGAN,
      'versions': f'jax {jax.__version__}, {dtype}',
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
  serve(json.loads(sys.argv[2]))
