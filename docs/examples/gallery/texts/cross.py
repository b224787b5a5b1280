"""
cross: a decoder's attention to its source
==========================================

A row for each target token, a column for each source token.

The model is a toy: an encoder and a decoder of one layer each, trained for seconds to
reverse a sequence of letters. Its cross-attention follows the antidiagonal.
"""

from scenes import reverser

from anylocal_bert import capture_text, plot

model, tokenizer = reverser()
maps = capture_text(model, tokenizer, "attention", target="noitnetta")
maps

# %%

ax = plot.cross(maps["model.decoder.layers.0.encoder_attn"])

# %%
# Reference: :func:`anylocal_bert.plot.cross`.
