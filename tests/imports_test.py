"""What an import costs: no TensorFlow, no SeqIO, and under two seconds.

Asked of fresh processes, because this one has long imported both.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from prompt_jax.prompted import PromptEncoderDecoder
from prompt_jax.t5 import pretrained
from prompt_jax.t5.config import T5Config
from prompt_jax.training import state as states

_ROOT = pathlib.Path(__file__).parents[1]
_SECONDS = 2.0  # of `import prompt_jax`, the best of three

_LIGHT = (
  'prompt_jax',
  'prompt_jax.tuned',
  'prompt_jax.t5',
  'prompt_jax.prompts',
  'prompt_jax.prompted',
  'prompt_jax.export',
  'prompt_jax.training',
  'prompt_jax.infer',
  'prompt_jax.data',
  'prompt_jax.train',
)

# The whole of what a user does who has a prompt file: nothing of it may
# bring in what only reading tasks needs.
_USE = """
import sys
from prompt_jax import export, tuned

base, prompt, out = sys.argv[1:]
model = tuned.load(base, prompt=prompt, lengths={'inputs': 11, 'targets': 3})
assert len(model.generate(['a film', 'another'])) == 2
assert len(model.rank(['a film'], ['good', 'bad'])) == 1
export.write_prompts(out, model.model, model.flat, ['films'], {})
"""

# The same from the command line: rows of a task, the method file of training.
_INFER = """
import sys
from prompt_jax import cli

prompt, rows, out = sys.argv[1:]
arguments = [
  'infer',
  *('--gin_file', 'models/mini.gin', '--gin_file=methods/prompt.gin'),
  *('--gin_file', 'runs/infer.gin', '--input', rows, '--output', out),
  f'--gin.PROMPT_FILE={prompt!r}',
  "--gin.MIXTURE_OR_TASK_NAME='movie_sentiment'",
]
assert cli.main(arguments) == 0
"""

_REPORT = """
heavy = {'tensorflow', 'seqio', 'tensorflow_datasets', 'tensorflow_text'}
print(' '.join(sorted(heavy & set(sys.modules))))
"""


def _python(code: str, *arguments: str) -> str:
  """What a fresh interpreter prints that sees the checkout alone."""
  run = subprocess.run(
    [sys.executable, '-c', code, *arguments],
    env={**os.environ, 'PYTHONPATH': str(_ROOT), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  return run.stdout.strip()


def _imports(*names: str) -> str:
  lines = ''.join(f'import {name}\n' for name in names)
  return _python('import sys\n' + lines + _REPORT)


def test_importing_the_light_modules():
  found = _imports(*_LIGHT)
  guilty = [name for name in _LIGHT if found and _imports(name)]
  assert not found, f'{guilty} import {found}'


@pytest.mark.slow  # imports TensorFlow
def test_the_report_sees_what_is_imported():
  assert {'seqio', 'tensorflow'} <= set(_imports('seqio').split())


@pytest.mark.slow  # a process that compiles three programs
def test_loading_generating_and_exporting(tmp_path):
  config = T5Config(  # the shipped vocabulary's 8,000 pieces fit
    vocab_size=8111,
    d_model=7,
    d_kv=3,
    d_ff=11,
    num_heads=5,
    num_encoder_layers=2,
    num_decoder_layers=1,
  )
  shapes = states.base_shapes(PromptEncoderDecoder(config))
  rng = np.random.default_rng(19)
  arrays = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  base, prompt = tmp_path / 'base', tmp_path / 'films.npy'
  pretrained.save(str(base), arrays, {'t5': pretrained.shapes_of(config)})
  rows = rng.normal(size=(13, config.d_model)).astype(np.float32)
  np.save(prompt, rows)
  out = tmp_path / 'exported'
  assert _python(_USE + _REPORT, str(base), str(prompt), str(out)) == ''
  np.testing.assert_array_equal(np.load(out / 'films.npy'), rows)


@pytest.mark.slow  # a process that compiles
def test_inference_by_the_name_of_a_task(tmp_path):
  prompt, rows = tmp_path / 'films.npy', tmp_path / 'rows.jsonl'
  width = 128  # of the shipped base
  np.save(prompt, np.random.default_rng(23).normal(size=(13, width)))
  rows.write_text('{"text": "a moving film", "id": 7}\n')
  out = tmp_path / 'out.jsonl'
  last = _python(_INFER + _REPORT, str(prompt), str(rows), str(out))
  assert last == f'1 predictions in {out}'  # then nothing heavy
  (row,) = map(json.loads, out.read_text().splitlines())
  assert list(row) == ['text', 'id', 'prediction', 'scores']
  assert sorted(row['scores']) == ['negative', 'positive']
  assert row['prediction'] == max(row['scores'], key=row['scores'].get)


def test_import_is_quick():
  code = (
    'import time\nstart = time.perf_counter()\nimport prompt_jax\n'
    'print(time.perf_counter() - start)\n'
  )
  times = sorted(float(_python(code)) for _ in range(3))
  assert times[0] < _SECONDS, times
