"""prompt_jax: soft prompts for frozen T5-family models, in JAX and Flax."""

import pathlib as _pathlib

__version__ = '0.1.0'

# In a checkout `tasks/` and `gin/` stand beside this package; an installed
# wheel holds them inside it. With this line both are `prompt_jax.tasks` and
# `prompt_jax.gin` either way.
if not (_pathlib.Path(__file__).parent / 'tasks').is_dir():
  __path__.append(str(_pathlib.Path(__file__).parent.parent))
