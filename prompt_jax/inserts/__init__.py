"""Inserts: modules `(y, x) -> y'` at the sites that `t5.sites` lists."""

from prompt_jax.inserts.adapter import Adapter
from prompt_jax.inserts.bias import Bias
from prompt_jax.inserts.ia3 import IA3
from prompt_jax.inserts.key_values import KeyValues
from prompt_jax.inserts.lora import LoRA
from prompt_jax.inserts.mask import Mask
from prompt_jax.inserts.record import Record

__all__ = ['IA3', 'Adapter', 'Bias', 'KeyValues', 'LoRA', 'Mask', 'Record']
