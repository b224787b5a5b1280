"""
Fused attention
===============

A fused kernel computes softmax(q·kᵀ)·v without ever making the softmax. Models run it
by default. So the map is *recomputed*: from query, key, mask and scale as the kernel
received them, in float32, and only for the rows that you ask for. The model runs as it
is.
"""

import torch
from scenes import TEXT, minilm

from anylocal_bert import capture_attention, plot

model, tokenizer = minilm()
inputs = tokenizer([TEXT, "It was tired."], padding=True, return_tensors="pt")
with capture_attention(model, tokenizer=tokenizer) as maps, torch.no_grad():
    output = model(**inputs)
maps[0]

# %%

ax = plot.tokens(maps[5], sample=0, head=11)

# %%
# Is it the same?
# ---------------
#
# The output, captured and not, is the same to the bit:

with torch.no_grad():
    alone = model(**inputs)
torch.equal(output.last_hidden_state, alone.last_hidden_state)

# %%
# The model's own maps exist in eager mode only. The greatest difference of any weight
# of any layer:

from transformers import AutoModel

eager = AutoModel.from_pretrained(
    "sentence-transformers/all-MiniLM-L6-v2", attn_implementation="eager"
).eval()
with torch.no_grad():
    own = eager(**inputs, output_attentions=True).attentions
real = inputs["attention_mask"].bool()
difference = max(
    (ours.tensor() - theirs).abs().transpose(1, 2)[real].max()
    for ours, theirs in zip(maps, own, strict=True)
)
f"{difference:.0e}"

# %%
# For every model of both zoos: the column *error* in :doc:`/zoo` and
# :doc:`/zoo-transformers`, against float64.
#
# What the tolerance means
# ------------------------
#
# - With q and k in bfloat16 or float16 the map is the float32 softmax of those numbers.
#   A kernel may round in between; which bits it used inside cannot be seen.
# - In train mode the map is the softmax before dropout.
# - Where no exact map can be computed, the layer is refused by name, never guessed.
#
# Only what is asked for
# ----------------------
#
# A map of a long input may be too large for the memory. Its rows are not:

row = maps[5][:, :, 0]  # of the first token only: nothing else is computed
mean = maps[5].head_mean()  # in blocks of rows: the map of all heads is never there
row.shape, mean.shape

# %%
# How long inputs may be is measured in :doc:`/benchmarks`.
#
# A softmax that is made
# ----------------------
#
# :func:`~anylocal.attention.relevance`, and editing ``attn``, need the tensor that a
# fused kernel never makes. Have the model make it:
#
# .. code-block:: python
#
#    timm.layers.set_fused_attn(False)          # timm, before the model is built
#    block.attn.fused_attn = False              # timm, each block of one that is there
#    AutoModel.from_pretrained(name, attn_implementation="eager")  # transformers
