"""What a prompt is good for beyond its own task and base.

prompt-jax transfer matrix      every prompt on every task
prompt-jax transfer indicators  how alike prompts are, and whether that tells
prompt-jax transfer neurons     what prompts activate, and masking it
prompt-jax transfer project     train a projector from one base to another
prompt-jax transfer projected   evaluate one, with its collapse diagnostic
prompt-jax transfer speed       steps that a start saves

Source: Su et al. 2022, "On Transferability of Prompt Tuning for Natural
Language Processing". From Python: `prompt_jax.transfer.hub.PromptHub`.
"""

from prompt_jax.transfer.command import flags, run

__all__ = ['flags', 'run']
