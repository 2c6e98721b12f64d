"""`python -m prompt_jax.transfer` is `prompt-jax transfer`."""

from prompt_jax import cli

cli.run_module('transfer')
