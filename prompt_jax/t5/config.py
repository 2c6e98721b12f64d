"""Shapes and switches of a T5-family model."""

import dataclasses

from prompt_jax.errors import UserError
from prompt_jax.t5 import probe

_DTYPES = ('float32', 'bfloat16', 'auto')
_FROZEN = (None, 'int8')
_REMAT = ('none', 'full')
_MLPS = (('relu',), ('gelu', 'linear'))


@dataclasses.dataclass(frozen=True)
class T5Config:
  """One encoder-decoder of the T5 family.

  T5 1.0: mlp_activations ('relu',), tied_logits True. T5 1.1, mT5 and ByT5:
  ('gelu', 'linear') with the tanh form of gelu, tied_logits False.

  Args:
    vocab_size: V, rows of the embedding (the vocabulary rounded up).
    d_model: H. d_kv: K, size of one head. d_ff: F, of both stacks.
    num_heads: N. num_encoder_layers, num_decoder_layers: L of each stack.
    mlp_activations: one entry (plain MLP) or two (gated MLP).
    tied_logits: logits from the embedding, scaled by 1/sqrt(H).
    relpos_num_buckets, relpos_max_distance: relative position buckets; the
      distance is in tokens.
    dropout_rate: share dropped while training; 0 keeps the base as it is.
    activation_dtype: dtype of the operands of every product ('float32' or
      'bfloat16'); residual stream, norms, softmax and logits stay float32.
      'auto' becomes the faster one here, see `t5.probe`.
    remat: 'none', or 'full' to recompute each layer in the backward pass.
    layer_norm_epsilon: added to the mean square.
    frozen_dtype: 'int8' holds the frozen dense kernels as int8 with a scale
      for each output, see `t5.quantized`; None in the activation dtype.
    decoder_d_ff: F of the decoder where it is not the encoder's, as in some
      partial models; None is d_ff.
  Raises: UserError for float16, an unknown dtype, remat policy or MLP.
  Source: Raffel et al. 2020, section 2.1; Shazeer 2020 for the gated MLP.
  """

  vocab_size: int  # V
  d_model: int  # H
  d_kv: int  # K
  d_ff: int  # F
  num_heads: int  # N
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  tied_logits: bool = False
  relpos_num_buckets: int = 32
  relpos_max_distance: int = 128
  dropout_rate: float = 0.0
  activation_dtype: str = 'float32'
  remat: str = 'none'
  layer_norm_epsilon: float = 1e-6
  decoder_d_ff: int | None = None
  frozen_dtype: str | None = None

  def __post_init__(self):
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    if self.activation_dtype == 'float16':
      raise UserError(
        "ACTIVATION_DTYPE is 'float16'; expected 'float32' or 'bfloat16'. "
        'Activations of T5 overflow in float16 (its largest number is 65504) '
        "and the loss becomes NaN. Use 'bfloat16'."
      )
    for name, allowed in (
      ('activation_dtype', _DTYPES),
      ('remat', _REMAT),
      ('frozen_dtype', _FROZEN),
      ('mlp_activations', _MLPS),
    ):
      if getattr(self, name) not in allowed:
        raise UserError(
          f'T5Config.{name} is {getattr(self, name)!r}; expected one of '
          f'{allowed}.'
        )
    if self.activation_dtype == 'auto':
      # what is computed, saved and compared is the dtype, not the wish
      object.__setattr__(self, 'activation_dtype', probe.activation_dtype())

  @property
  def is_gated(self) -> bool:
    """Whether the MLP has two input kernels, wi_0 and wi_1."""
    return len(self.mlp_activations) == 2
