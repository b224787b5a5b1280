"""
tokens: which token attends to which
====================================

A matrix with the tokens as labels. Padding is covered in grey: what it attends to is
meaningless.

The maps are those of a pretrained 6-layer BERT, for two sentences of different lengths.
"""

from scenes import TEXT, minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
maps = capture_text(model, tokenizer, [TEXT, "It was unbelievably tired."])

# %%

ax = plot.tokens(maps[2], sample=1, head=1)

# %%
# Words instead of subwords:

ax = plot.tokens(maps[2], sample=1, head=1, words=True)

# %%
# Reference: :func:`anylocal_bert.plot.tokens`; as a task: :doc:`/how-to/padding`.
