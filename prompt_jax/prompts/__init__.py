"""Prompt sources: modules `(task_ids, embeds, mask) -> prompt [B,P,H]`."""

from prompt_jax.prompts.attempt import Attempt
from prompt_jax.prompts.bank import Bank
from prompt_jax.prompts.lstm import LSTM
from prompt_jax.prompts.mlp import MLP
from prompt_jax.prompts.prompt import Prompt
from prompt_jax.prompts.residual import Residual
from prompt_jax.prompts.shared import TaskPrompts
from prompt_jax.prompts.shared_and_task import SharedAndTask
from prompt_jax.prompts.transformer import Transformer
from prompt_jax.prompts.wayward import Wayward

__all__ = [
  'LSTM',
  'MLP',
  'Attempt',
  'Bank',
  'Prompt',
  'Residual',
  'SharedAndTask',
  'TaskPrompts',
  'Transformer',
  'Wayward',
]
