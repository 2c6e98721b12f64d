"""Prototype tasks: the nearest of P prototypes says what to answer.

    answer(text) = word[argmax_k  z(text) . a_k]

z is a teacher's sentence vector, centred a domain at a time, reduced by
principal components, half whitened and of length one. A task is P prototypes
a_k (texts, cluster centres, class weights of labelled tasks) with a word each,
several prototypes sharing a word. A prompt row made from (a_k, word) says what
the task is, so there are as many tasks as there are draws, and what the frozen
model learns is to do what its prompt rows say.

Source: prototypical networks, Snell et al. 2017, section 2.2. Departures: the
metric is a teacher's and not learned, and the prototypes are drawn, not means
of a task's examples.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses
import os
import pathlib

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression

from launch.pretrain import archive
from launch.pretrain.corpora import key
from prompt_jax.errors import UserError

# Chosen by hand and never searched, unless a reason is given.
WIDTH = 128  # D of the space: the width of the smallest backbone
# Power of the eigenvalues, between none (0) and full (-1/2) whitening: topics
# stay larger than noise.
_WHITENING = -0.25
# A single text is averaged with its five nearest ones: alone it would be
# nearest to little but itself.
_NEIGHBOURS = 6  # itself among them
_TEXTS = 6000  # single texts among the prototypes of a part
_CENTRES = (12, 30, 80, 200, 500)  # from whole topics to fine ones
_CLUSTERINGS = 2  # of each number of centres
_BLOCK = 500  # rows of similarities in memory at once
# Prototypes of a class are its weights with noise of this length, so that no
# two tasks are the same.
_VARIANTS = 60
_NOISE = 0.6
_CLASS_SHARE = 0.25  # of the tasks of a part with labelled classes
_GROUPED_SHARE = 0.5  # of the others: prototypes of a word are near each other
# How many different words a task has, one of these at random: tasks that
# prompts are tuned on have few labels.
_SIZES = (2, 2, 2, 3, 3, 4, 5, 6, 8, 12, 16, 20)
_PAIRS = 60000  # of words: as many as texts in the larger domains
_FITTED = 20000  # pairs that the components are found from
_NEAR_PAIRS = 40000  # of them: words that are near each other
_NEAR = 40  # the second word is one of so many nearest
_NEARNESS = 3  # what a whole pair is long over what its nearness adds


@dataclasses.dataclass
class Space:
  """The teacher's space after centring and reduction.

      z = unit((x - mean_domain) V L^-1/4)

  V, L: the first WIDTH eigenvectors and eigenvalues of the covariance within
  domains, each domain counting the same.

  Attributes:
    folder: what `launch.pretrain.teacher` wrote.
    means: domain -> float32[384].
    basis: V L^-1/4, float32[384,WIDTH].
  """

  folder: pathlib.Path
  means: dict[str, np.ndarray]
  basis: np.ndarray

  @classmethod
  def fit(cls, folder: str | os.PathLike, domains: Iterable[str]) -> 'Space':
    """Principal components over all domains, each centred by itself.

    Raises: UserError if a domain has no file.
    """
    folder, means, total = pathlib.Path(folder), {}, 0.0
    for name in domains:
      x = _vectors(folder, name)['vectors'].astype(np.float32)
      means[name] = x.mean(axis=0)
      total = total + (x - means[name]).T @ (x - means[name]) / len(x)
    values, vectors = np.linalg.eigh(total / len(means))
    values, vectors = values[::-1][:WIDTH], vectors[:, ::-1][:, :WIDTH]
    return cls(folder, means, vectors * values**_WHITENING)

  def read(self, domain: str) -> tuple[list[str], np.ndarray]:
    """Texts of a domain and their z, float32[n,WIDTH]."""
    stored = _vectors(self.folder, domain)
    texts = stored['text'].tobytes().decode().split('\n')
    x = stored['vectors'].astype(np.float32)
    return texts, unit((x - self.means[domain]) @ self.basis)


def _vectors(folder: pathlib.Path, domain: str) -> dict[str, np.ndarray]:
  return archive.load(folder / f'{domain}.npz', 'teacher')


def unit(x: np.ndarray) -> np.ndarray:
  """Rows [...,D] of length one."""
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


@dataclasses.dataclass
class Part:
  """Texts of one domain and the prototypes made from them.

  Attributes:
    name: one of `domains.PARTS`.
    rows: where the texts are among the tokens, int[n].
    vectors: z of the texts, [n,D].
    bank: prototypes [A,D]: single texts, then centres, then classes.
    kinds: where each kind of prototype starts in the bank, and its end.
    classes: a labelled task -> [classes, variants] rows of the bank.
  """

  name: str
  rows: np.ndarray
  vectors: np.ndarray
  bank: np.ndarray
  kinds: tuple[int, ...]
  classes: list[np.ndarray]


def part(
  name: str,
  rows: np.ndarray,
  vectors: np.ndarray,
  weights: Sequence[np.ndarray],
  rng: np.random.Generator,
) -> Part:
  """The prototypes of a domain.

  Args:
    name: of the part.
    rows: where its texts are among the tokens, int[n].
    vectors: z of the texts, [n,D].
    weights: [classes,D] of each labelled task, see `directions`.
    rng: of everything random.
  """
  chosen = rng.permutation(len(vectors))[:_TEXTS]
  bank = [unit(_smoothed(vectors, chosen)), unit(_centres(vectors, rng))]
  kinds, classes = [0, len(bank[0]), len(bank[0]) + len(bank[1])], []
  scale = vectors.std(axis=0)
  for own in weights:
    noise = rng.normal(size=(len(own), _VARIANTS, own.shape[1])) * scale
    made = unit(own[:, None] + _NOISE * unit(noise))
    first = sum(map(len, bank))
    bank.append(made.reshape(-1, own.shape[1]))
    classes.append(first + np.arange(len(bank[-1])).reshape(len(own), -1))
  kinds.append(sum(map(len, bank)))
  return Part(name, rows, vectors, np.concatenate(bank), tuple(kinds), classes)


def _smoothed(vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """Means of each chosen row and its nearest ones."""
  smooth = []
  for at in range(0, len(chosen), _BLOCK):
    near = vectors[chosen[at : at + _BLOCK]] @ vectors.T
    best = np.argpartition(-near, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
    smooth.append(vectors[best].mean(axis=1))
  return np.concatenate(smooth)


def _centres(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Cluster centres at several resolutions."""
  centres = []
  for count in np.repeat(_CENTRES, _CLUSTERINGS):
    seed = int(rng.integers(2**31))
    found = MiniBatchKMeans(
      int(count), random_state=seed, n_init=1, batch_size=4096
    )
    centres.append(found.fit(vectors).cluster_centers_)
  return np.concatenate(centres)


def directions(
  space: Space, domain: str, tables: Mapping[str, Sequence[tuple[str, str]]]
) -> list[np.ndarray]:
  """Class weights of labelled tasks in the space: [classes,WIDTH] each.

  Logistic regression on z; of two classes the weights are -w and w.

  Args:
    space: of the teacher.
    domain: that the texts are from.
    tables: task -> [(text, label)].
  Raises: UserError if the teacher's vectors have no text of a task.
  """
  texts, vectors = space.read(domain)
  place = {text: i for i, text in enumerate(texts)}
  out = []
  for task, table in tables.items():
    rows = [(place[text], label) for text, label in table if text in place]
    if not rows:
      raise UserError(
        f'{space.folder}/{domain}.npz has none of the {len(table)} texts of '
        f'{task}; expected vectors of the same data folder and seed. Run '
        '`python -m launch.pretrain.teacher` with this --source.'
      )
    at, labels = zip(*rows, strict=True)
    fit = LogisticRegression(C=10, max_iter=500, class_weight='balanced')
    fit.fit(vectors[list(at)], labels)
    weights = fit.coef_
    if len(weights) == 1:
      weights = np.concatenate([-weights, weights])
    print(f'{task}: {fit.score(vectors[list(at)], labels):.3f} of train')
    out.append(unit(weights))
  return out


def pairs(
  words: Sequence[str],
  vectors: np.ndarray,
  rng: np.random.Generator,
  held_out: Collection[frozenset[str]] = (),
) -> tuple[list[str], np.ndarray]:
  """Pairs of words `a - b`, and features of what is between them.

      features = unit([c (za . zb), PCA [|za - zb|, za zb]])

  the first standardised, the others half whitened. c makes nearness a third
  as long as the rest: how near two words are is more than any other
  direction between them.

  Args:
    words: n words.
    vectors: their z, [n,D].
    rng: of the choice.
    held_out: pairs of keys, in no order, that are left out.
  Returns: (texts, float32[m,D]); m is _PAIRS without words paired with
    themselves and without what is held out.
  """
  a = rng.integers(len(words), size=_PAIRS)
  b = rng.integers(len(words), size=_PAIRS)
  for at in range(0, _NEAR_PAIRS, _BLOCK):
    similar = vectors[a[at : at + _BLOCK]] @ vectors.T
    best = np.argpartition(-similar, _NEAR, axis=1)[:, :_NEAR]
    pick = rng.integers(_NEAR, size=len(best))
    b[at : at + _BLOCK] = best[np.arange(len(best)), pick]
  named = [
    frozenset((key(words[i]), key(words[j]))) for i, j in zip(a, b, strict=True)
  ]
  keep = (a != b) & np.array([pair not in held_out for pair in named])
  a, b = a[keep], b[keep]
  za, zb = vectors[a], vectors[b]
  features = np.concatenate([np.abs(za - zb), za * zb], axis=1)
  features -= features.mean(axis=0)
  features /= features.std(axis=0)
  _, _, right = np.linalg.svd(features[:_FITTED], full_matrices=False)
  width = vectors.shape[1]
  reduced = features @ right[: width - 1].T
  reduced /= reduced.std(axis=0) ** 0.5
  near = (za * zb).sum(axis=1, keepdims=True)
  near = (near - near.mean()) / near.std()
  scale = reduced.std() * np.sqrt(width) / _NEARNESS
  reduced = np.concatenate([near * scale, reduced], axis=1)
  texts = [f'{words[i]} - {words[j]}' for i, j in zip(a, b, strict=True)]
  return texts, unit(reduced).astype(np.float32)


def _program(own: Part, prototypes: int, rng: np.random.Generator):
  """(rows of the part's bank int[P], groups that share a word int[P])."""
  if own.classes and rng.random() < _CLASS_SHARE:
    chosen = own.classes[rng.integers(len(own.classes))]
    group = rng.permutation(np.arange(prototypes) % len(chosen))
    return chosen[group, rng.integers(_VARIANTS, size=prototypes)], group
  kind = rng.integers(2)
  drawn = rng.integers(*own.kinds[kind : kind + 2], size=prototypes)
  size = min(int(rng.choice(_SIZES)), prototypes)
  if rng.random() < _GROUPED_SHARE:
    nearness = own.bank[drawn] @ own.bank[drawn[:size]].T  # [P,size]
    return drawn, nearness.argmax(axis=1)
  return drawn, np.arange(prototypes) % size


def pack(
  parts: Sequence[Part],
  prototypes: int,
  programs: int,
  words: int,
  rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  """All parts, and tasks drawn from them in turn, as arrays.

  Args:
    parts: their places are their numbers.
    prototypes: P of a task.
    programs: M, tasks in all.
    words: how many a prototype may stand for.
    rng: of the tasks.
  Returns: 'part_row' int[n], 'part_of' int[n] (part number), 'z'
    float16[n,D]; 'bank' float16[A,D]; 'program_part' int[M], 'program_bank'
    int[M,P], 'program_word' int[M,P].
  """
  starts = np.cumsum([0, *(len(each.bank) for each in parts)])
  of = np.arange(programs) % len(parts)
  bank = np.zeros((programs, prototypes), np.int32)
  word = np.zeros((programs, prototypes), np.int32)
  for m, number in enumerate(of):
    drawn, group = _program(parts[number], prototypes, rng)
    bank[m] = starts[number] + drawn
    word[m] = rng.choice(words, group.max() + 1, replace=False)[group]
  return {
    'part_row': np.concatenate([each.rows for each in parts]),
    'part_of': np.concatenate(
      [np.full(len(each.rows), i, np.int32) for i, each in enumerate(parts)]
    ),
    'z': np.concatenate([each.vectors for each in parts]).astype(np.float16),
    'bank': np.concatenate([each.bank for each in parts]).astype(np.float16),
    'program_part': of.astype(np.int32),
    'program_bank': bank,
    'program_word': word,
  }
