"""How much a training step has to compute: the count that bars are set by.

Only products count. With J = N K, E = P+T, m input kernels of the MLP, and a
product [a,b] x [b,c] costing 2abc, each per example:

    encoder layer   dense       2 E H (4 J + (m+1) F)
                    attention   4 E E J
    decoder layer   self        2 U H 4 J  +  4 U U J
                    cross       2 U H 2 J  +  2 E H 2 J  +  4 U E J, or
                                2 U H 4 J  +  4 U E N H  where that is less
                    MLP         2 U H (m+1) F
    logits                      2 U H V

The second line of cross attention is that of `t5/absorb.py`, on CPUs.
"""

from prompt_jax.t5.absorb import absorbs
from prompt_jax.t5.config import T5Config


def step_flops(
  config: T5Config, batch: int, inputs: int, targets: int, prompt: int
) -> float:
  """Forward and backward of one step that trains a prompt of the encoder.

      forward    every product once
      backward   a dense product once more, for its input; each of the two
                 products of attention twice more, for its two operands;
                 nothing for weights

  What does not depend on the prompt has no backward: the embedding, and in
  the first decoder layer self attention, the kernels that queries of cross
  attention meet and the query operand of its scores. Padding is computed like
  all else.

  Args:
    config: sizes of the model.
    batch: B, examples.
    inputs, targets: T and U, tokens of an example, padding included.
    prompt: P, positions of the prompt.
  Returns: floating-point operations, a multiplication and an addition each 1.
  Source: reverse-mode differentiation of the products in `t5/layers.py`.
  Departures: norms, softmax, loss and optimizer are left out; no remat.
  """
  width, joined = config.d_model, config.num_heads * config.d_kv
  matrices = len(config.mlp_activations) + 1
  mlp = matrices * config.d_ff
  mlp_decoder = matrices * (config.decoder_d_ff or config.d_ff)
  seen = prompt + inputs  # E
  dense = lambda rows, columns: 2 * rows * width * columns
  # of heads K wide: scores, and as many for weights x values
  scores = lambda keys, each=joined: 2 * targets * keys * each

  encoder = 2 * dense(seen, 4 * joined + mlp) + 3 * 4 * seen * seen * joined
  own = dense(targets, 4 * joined), 2 * scores(targets)
  query = dense(targets, joined)
  if absorbs(config, targets, seen):
    met, across = query, scores(seen, config.num_heads * width)
    cross = query + 2 * met, 2 * across
  else:
    met, across = 0, scores(seen)
    cross = query + dense(seen, 2 * joined), 2 * across
  layer = 2 * (own[0] + query + cross[0] + dense(targets, mlp_decoder))
  layer += 3 * (own[1] + cross[1])
  spared = own[0] + 2 * own[1] + query + met + across
  logits = 2 * dense(targets, config.vocab_size)
  return float(
    batch
    * (
      config.num_encoder_layers * encoder
      + config.num_decoder_layers * layer
      - spared
      + logits
    )
  )


def forward_products(config: T5Config, inputs: int, targets: int) -> int:
  """Multiply-adds of the dense products of one example's forward pass.

      encoder   L S (4 A + (m+1) H F)                        A = H N K
      decoder   L (U 6 A + S 2 A + U (m+1) H F)
      logits    U H V

  A frozen model's backward pass costs about the same again, so that shares of
  it are those of training.

  Args:
    config: sizes of the model or of a part of it.
    inputs: S, tokens of the input and rows of the prompt.
    targets: U, tokens.
  Returns: multiply-adds, each 1 (the paper's unit; `step_flops` counts 2).
  Source: Huang et al. 2022 (FPT), released code, which measures them.
  Departures: none; products of attention and all that is no matrix product
    are left out, as there.
  """
  joined = config.d_model * config.num_heads * config.d_kv  # A
  mlp = (len(config.mlp_activations) + 1) * config.d_model
  widths = config.d_ff, config.decoder_d_ff or config.d_ff
  encoder = inputs * (4 * joined + mlp * widths[0])
  decoder = targets * (6 * joined + mlp * widths[1]) + inputs * 2 * joined
  return (
    config.num_encoder_layers * encoder
    + config.num_decoder_layers * decoder
    + targets * config.d_model * config.vocab_size
  )
