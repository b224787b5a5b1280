"""
Padding and words
=================

Texts of a batch are padded to one length, and a tokenizer cuts words into pieces. Axes
know both.

A real BERT of 6 layers (``scenes`` loads it; the notebook has it in its second cell).
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
# The mask of the model is in the map: keys that are padding have weight 0. What padding
# *attends to* is a row of numbers without a meaning; pictures cover it, and statistics
# leave it out.

axis.is_padding(1)

# %%

maps[2][1, :, :, axis.is_padding(1)].max()

# %%

ax = plot.tokens(maps[2], sample=1)

# %%
# Words
# -----
#
# :func:`~anylocal.attention.merge_words` makes one position of the tokens of a word:
# what its parts get is added, what they give is averaged, so that rows sum to 1 again.

from anylocal.attention import merge_words

words = merge_words(maps[2], sample=0)
words.keys.labels()

# %%

ax = plot.tokens(maps[2], sample=0, words=True)

# %%
# Special tokens are set apart from words, where you want to leave them out:

axis.is_special(0)
