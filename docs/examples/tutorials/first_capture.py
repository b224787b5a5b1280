"""
First capture in five minutes
=============================

A BERT reads a sentence. We take every attention map of it in one line, look at one, and
then at any other value that the model computes on its way.

You need ``anylocal-bert``. The first lines load the weights from the Hugging Face hub.
"""

from transformers import AutoModel, AutoTokenizer

name = "sentence-transformers/all-MiniLM-L6-v2"
model, tokenizer = (
    AutoModel.from_pretrained(name).eval(),
    AutoTokenizer.from_pretrained(name),
)

# %%
# Capture
# -------
#
# Open a scope around the call of the model. The model is not changed for it, and its
# output is the same to the bit.

import torch

from anylocal_bert import capture_attention, plot

inputs = tokenizer(
    "The animal didn't cross the street because it was too tired.", return_tensors="pt"
)
with capture_attention(model, tokenizer=tokenizer) as maps, torch.no_grad():
    model(**inputs)
maps

# %%
# One map for each layer. The column *fused* says that the layer ran a kernel which
# never makes its map; it is computed from what the kernel was given
# (:doc:`/how-to/fused`).
#
# Look
# ----
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
# :func:`~anylocal.capture` takes local variables by their names. :func:`~anylocal.find`
# lists what there is: here, what the functions of the first layer's feed-forward block
# bind.

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
# A name that is not there is refused at once, with the nearest one that is.

try:
    capture(model, "hiden_states")
except LookupError as error:
    print(error)

# %%
# Next: :doc:`vit`, :doc:`bert`, or :doc:`plain_function`.
