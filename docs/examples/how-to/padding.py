"""
Padding and words
=================

The texts of a batch are padded to the same length, and a tokenizer splits words into
subwords. The axes of a map know about both.

The model is a pretrained 6-layer BERT (``scenes`` loads it; the notebook has that
module in its second cell).
"""

# sphinx_gallery_thumbnail_number = 2

from scenes import minilm

from anylocal_bert import capture_text, plot

model, tokenizer = minilm()
texts = ["The tokenizer hyphenates unbelievably.", "It works."]
maps = capture_text(model, tokenizer, texts)
axis = maps[0].keys
axis.labels(0), axis.labels(1)

# %%
# Padding
# -------
#
# The map includes the model's mask: keys that are padding have weight 0. What padding
# *attends to* is meaningless; pictures cover those rows, and statistics leave them out.

axis.is_padding(1)

# %%

maps[2][1, :, :, axis.is_padding(1)].max()

# %%

ax = plot.tokens(maps[2], sample=1)

# %%
# Words
# -----
#
# :func:`~anylocal.attention.merge_words` merges the tokens of a word into one position:
# the attention that they receive is summed, and the attention that they pay is
# averaged, so that rows still sum to 1.

from anylocal.attention import merge_words

words = merge_words(maps[2], sample=0)
words.keys.labels()

# %%

ax = plot.tokens(maps[2], sample=0, words=True)

# %%
# Special tokens are marked, in case you want to leave them out:

axis.is_special(0)
