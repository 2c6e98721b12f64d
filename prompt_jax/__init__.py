"""prompt_jax: soft prompts for frozen T5-family models, in JAX and Flax.

model = prompt_jax.load('mini', prompt='movie_sentiment.npy')
model.rank(['a moving, funny film'], ['negative', 'positive'])
"""

import pathlib as _pathlib
import time as _time

__version__ = '0.1.0'
BEGAN = _time.monotonic()  # when the command was given, see `startup`

# In a checkout `tasks/` and `gin/` stand beside this package; an installed
# wheel holds them inside it. With this line both are `prompt_jax.tasks` and
# `prompt_jax.gin` either way.
if not (_pathlib.Path(__file__).parent / 'tasks').is_dir():
  __path__.append(str(_pathlib.Path(__file__).parent.parent))


def load(base, prompt=None, **settings):
  """A frozen base with a saved prompt; see `prompt_jax.tuned.load`."""
  # JAX is imported when it is needed, so that the package itself is quick.
  from prompt_jax import tuned

  return tuned.load(base, prompt, **settings)
