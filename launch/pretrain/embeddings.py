"""Starts the embeddings of a vocabulary from PyPI wordllama's.

    python -m launch.pretrain.embeddings --model VOCABULARY --width 128 \
      --rows 8192 --out embedding.npy

Needs `pip install wordllama` (its wheel has the weights); nothing is
downloaded and wordllama itself is not imported.
"""

import argparse
import importlib.util
import pathlib

import numpy as np
from safetensors.numpy import load_file
import sentencepiece
import tokenizers

from prompt_jax.errors import UserError

_WEIGHTS = 'weights/l2_supercat_256.safetensors'
_TOKENIZER = 'tokenizers/l2_supercat_tokenizer_config.json'


def wordllama() -> tuple[np.ndarray, tokenizers.Tokenizer]:
  """Reads wordllama's table float64[32000,256] and its tokenizer.

  Raises: UserError if wordllama is not installed, or of another layout.
  """
  spec = importlib.util.find_spec('wordllama')
  folder = pathlib.Path(spec.origin).parent if spec else pathlib.Path()
  if spec is None or not (folder / _WEIGHTS).is_file():
    raise UserError(
      f'{"found no" if spec is None else "found another"} wordllama; expected '
      f'{_WEIGHTS} in it, to start the embeddings from. Run '
      '`pip install wordllama==0.4.0.post1`.'
    )
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
  # pieces have their own word mark: another one would turn 'ing' into ' ing'
  tokenizer.normalizer = tokenizers.normalizers.Sequence([])
  # float16 on disk: a sum of the table overflows
  table = load_file(folder / _WEIGHTS)['embedding.weight'].astype(np.float64)
  return table, tokenizer


def piece_vectors(
  pieces: list[str], table: np.ndarray, tokenizer: tokenizers.Tokenizer
) -> np.ndarray:
  """Mean of the embeddings of the tokens of each piece: float64[n,256]."""
  cuts = tokenizer.encode_batch(pieces, add_special_tokens=False)
  return np.stack([table[cut.ids].mean(axis=0) for cut in cuts])


def reduce(vectors: np.ndarray, width: int) -> np.ndarray:
  """Principal components, scaled as a whole to standard deviation one.

  out = (X - mean X) V[:, :width] / std

  Args:
    vectors: float64[n,D].
    width: at most D.
  Returns: float64[n,width].
  """
  centred = vectors - vectors.mean(axis=0)
  _, _, right = np.linalg.svd(centred, full_matrices=False)
  right = right[:width]
  # a singular vector has no sign of its own: the largest entry is positive
  largest = np.abs(right).argmax(axis=1)
  right *= np.sign(right[np.arange(len(right)), largest])[:, None]
  reduced = centred @ right.T
  return reduced / reduced.std()


def embeddings(
  processor: sentencepiece.SentencePieceProcessor,
  width: int,
  rows: int,
  seed: int,
) -> np.ndarray:
  """Embedding table of a vocabulary: float32[rows,width].

  Rows without a meaning of their own (control ids, bytes, sentinels, padding
  rows) are normal random numbers of standard deviation one, as the others.

  Raises: UserError if the width or the number of rows does not fit.
  """
  table, tokenizer = wordllama()
  size = processor.get_piece_size()
  if not (0 < width <= table.shape[1] and rows >= size):
    raise UserError(
      f'got --width {width} --rows {rows}; expected a width of 1 to '
      f'{table.shape[1]} (the width of wordllama) and at least {size} rows '
      '(the pieces of the vocabulary). Choose others.'
    )
  real = [
    i
    for i in range(size)
    if not (
      processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i)
    )
  ]
  pieces = [processor.id_to_piece(i) for i in real]
  out = np.random.default_rng(seed).normal(size=(rows, width))
  out[real] = reduce(piece_vectors(pieces, table, tokenizer), width)
  return out.astype(np.float32)


def main(argv: list[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', required=True, help='SentencePiece model')
  parser.add_argument('--width', required=True, type=int)
  parser.add_argument('--rows', type=int, default=8192)
  parser.add_argument('--out', required=True, type=pathlib.Path)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  processor = sentencepiece.SentencePieceProcessor(args.model)
  made = embeddings(processor, args.width, args.rows, args.seed)
  args.out.parent.mkdir(parents=True, exist_ok=True)
  np.save(args.out, made)
  print(f'{made.shape} in {args.out}')


if __name__ == '__main__':
  main()
