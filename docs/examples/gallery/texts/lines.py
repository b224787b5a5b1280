"""
lines: from queries to keys
===========================

The queries on the left, the keys on the right, and a line for each weight: the greater,
the darker and the wider (after Vig 2019). Lines stay lines in PDF and SVG.

A real BERT of 6 layers reads a sentence.
"""

from scenes import TEXT, minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, TEXT)

# %%
# The lines of one token:

ax = plot.lines(maps[5], head=11, query="it")

# %%
# The strongest of all:

ax = plot.lines(maps[2], head=1, strongest=30)

# %%
# Reference: :func:`anylocal_bert.plot.lines`. For the interactive views of BertViz:
# `anylocal_bert.bertviz`.
