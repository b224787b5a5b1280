"""
lines: from queries to keys
===========================

Queries on the left, keys on the right, and a line for each weight: the larger, the
darker and wider (after Vig 2019). Lines are vector graphics in PDF and SVG.

The maps are those of a pretrained 6-layer BERT.
"""

from scenes import TEXT, minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%
# The lines from one token, without the faint ones:

ax = plot.lines(maps[5], head=11, query="it")

# %%
# The largest weights of all:

ax = plot.lines(maps[2], head=1, strongest=30)

# %%
# Reference: :func:`anylocal_bert.plot.lines`. For the interactive views of BertViz:
# `anylocal_bert.bertviz`.
