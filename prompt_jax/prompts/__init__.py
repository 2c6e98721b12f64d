"""Prompt sources: modules `(task_ids, embeds, mask) -> prompt [B,P,H]`."""

from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.shared import TaskPrompts

__all__ = ['Prompt', 'TaskPrompts']
