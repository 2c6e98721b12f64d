"""Carries out runs in a process of its own: `python -m tests.resume_runner`.

    commands.json: [[gin files, bindings], ...]

All of them in one process: what it imports takes seconds.
"""

import json
import pathlib
import sys

from prompt_jax import train
from tests import miniature

if __name__ == '__main__':
  for files, given in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    train.train(miniature.configured(files, given))
