"""
cross: what a decoder attends to in its source
==============================================

A row for each target token, a column for each source token.

A toy: an encoder-decoder of one layer each, trained for seconds to write letters
backwards. Its cross-attention runs down the other diagonal.
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
