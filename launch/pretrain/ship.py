"""Makes the folder that ships from a finished pretraining run.

    python -m launch.pretrain.ship --model_dir runs/pretrain/mini --out FOLDER

Writes the plain T5 in bfloat16, and the learned prompts of the labelled tasks
under their real label words as FOLDER/prompts/<task>.npy, to start others from.

The residual stream is scaled by `SCALE`, and with it what is written to it:
T5 normalises before every product, so the model computes the same, but an
embedding then has the size that it has in public T5 models, and prompts take
the published learning rates.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import re

import gin
import numpy as np

from launch.pretrain.tasks import REAL
from prompt_jax import export, ginfiles, params
from prompt_jax import train as trains
from prompt_jax.errors import UserError
from prompt_jax.prompts import saved
from prompt_jax.session import Session
from prompt_jax.t5 import pretrained
from prompt_jax.t5.leaf import dtype_named
from prompt_jax.training import state as states
from prompt_jax.training.loop import Interruption

# Rate 0.3 (Lester et al. 2021) is then 0.03 of an embedding, the best of three
# tried on embeddings of standard deviation one (README.md).
SCALE = 10.0
# What writes to the residual stream: the embeddings, and the last product of
# every sublayer.
_WRITES = re.compile(
  r'token_embedder/embedding'
  r'|.*/(self_attention|encoder_decoder_attention|attention)/out/kernel'
  r'|.*/mlp/wo/kernel'
)
_LOGITS = 'decoder/logits_dense/kernel'
_PROMPTS = 'encoder/prompt/prompts'


def scaled(flat: params.Flat) -> params.Flat:
  """The same function with a residual stream `SCALE` times as large.

      x' = SCALE x;  norm(x') = norm(x)

  up to the epsilon of the norm, which the scaling makes smaller.

  Args:
    flat: {path: array} of a plain T5 with an output matrix of its own.
  Returns: {path: array} of the same shapes.
  Raises: UserError if the output matrix is the embeddings: scaled, they would
    scale the logits.
  """
  if _LOGITS not in flat:
    raise UserError(
      f'the model has no {_LOGITS}; expected an output matrix of its own, as '
      'T5 1.1 has. Pretrain a model of models/architectures/t5_1_1.gin.'
    )
  return {
    path: np.asarray(x) * (SCALE if _WRITES.fullmatch(path) else 1.0)
    for path, x in flat.items()
  }


def _labelled(mixture: pathlib.Path) -> list[str]:
  """Names of the labelled tasks, in the order of their prompts."""
  if not mixture.is_file():
    raise UserError(
      f'{mixture} is not there; expected what launch.pretrain.mixture wrote '
      'beside the arrays that the run was trained on. Give it as --mixture.'
    )
  return json.loads(mixture.read_text())['labelled']


def configured(model_dir: pathlib.Path) -> trains.Run:
  """The run that a MODEL_DIR is of."""
  config = model_dir / 'config.gin'
  if not config.is_file():
    raise UserError(
      f'{config} is not there; expected the MODEL_DIR of a pretraining run, '
      'given as --model_dir. Train with launch/pretrain/backbones.sh.'
    )
  # the folder may have been moved since
  ginfiles.parse([str(config)], [f'MODEL_DIR={str(model_dir)!r}'])
  return gin.get_configurable(trains.Run)()


def newest(run: trains.Run) -> tuple[int, params.Flat]:
  """(step, {path: array}) of the newest checkpoint, those of sources too.

  Raises: UserError if the run has none.
  """
  session = Session(run, Interruption())
  state, _ = session.restore()
  step = int(state.step)
  if not step:
    raise UserError(
      f'{run.folder} has no checkpoint; expected a run that was trained. Train '
      'it with launch/pretrain/backbones.sh.'
    )
  return step, params.merge(state.trainable, session.frozen)


def ship(
  run: trains.Run, labelled: Sequence[str], out: pathlib.Path
) -> tuple[int, str]:
  """Writes the newest checkpoint of a run.

  Args:
    run: of launch/pretrain/pretrain.gin.
    labelled: names of the labelled tasks, in the order of their prompts.
    out: the folder to write; must not exist.
  Returns: (step, digest of the base).
  Raises: UserError if the run has no checkpoint, or the folder exists.
  """
  step, flat = newest(run)
  plain = {path: flat[path] for path in states.base_shapes(run.model)}
  dtype = dtype_named('bfloat16')
  arrays = {path: x.astype(dtype) for path, x in scaled(plain).items()}
  config = {
    't5': pretrained.shapes_of(run.model.config),
    'step': step,
    'versions': export.versions(),
  }
  pretrained.save(str(out), arrays, config)
  digest = params.digest(arrays)
  ending = f'_{REAL}'
  for row, name in enumerate(labelled):
    if name.endswith(ending):
      task = name.removesuffix(ending)
      about = {
        'task': task,
        'base': out.name,
        'base_digest': digest,
        'step': step,
      }
      prompt = SCALE * np.asarray(flat[_PROMPTS][row], np.float32)
      saved.save(out / 'prompts' / f'{task}.npy', prompt, about)
  return step, digest


def main(argv: Sequence[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--model_dir', required=True, type=pathlib.Path, help='of the run'
  )
  parser.add_argument(
    '--mixture',
    type=pathlib.Path,
    default='runs/pretrain/mixture.json',
    help='beside the arrays of the run',
  )
  parser.add_argument(
    '--out', required=True, type=pathlib.Path, help='folder to write'
  )
  args = parser.parse_args(argv)
  labelled = _labelled(args.mixture)
  step, _ = ship(configured(args.model_dir), labelled, args.out)
  print(f'step {step} in {args.out}')


if __name__ == '__main__':
  main()
