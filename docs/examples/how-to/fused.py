"""
Fused attention
===============

A fused kernel computes softmax(q·kᵀ)·v without ever materializing the softmax, and most
models use one by default. So the map is *recomputed* from query, key, mask and scale as
the kernel received them, in float32, and only for the rows that you request. The model
runs unchanged.
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
# The output with and without the capture is bit-equal:

with torch.no_grad():
    alone = model(**inputs)
torch.equal(output.last_hidden_state, alone.last_hidden_state)

# %%
# The model's own maps exist in eager mode only. The largest difference of any weight of
# any layer:

from transformers import AutoModel

from anylocal_bert.minilm import folder

eager = AutoModel.from_pretrained(folder(), attn_implementation="eager").eval()
with torch.no_grad():
    own = eager(**inputs, output_attentions=True).attentions
real = inputs["attention_mask"].bool()
difference = max(
    (ours.tensor() - theirs).abs().transpose(1, 2)[real].max()
    for ours, theirs in zip(maps, own, strict=True)
)
f"{difference:.0e}"

# %%
# For the models of both libraries, the column *error* in :doc:`/zoo` and
# :doc:`/zoo-transformers` compares with float64.
#
# What the tolerance means
# ------------------------
#
# - With q and k in bfloat16 or float16, the map is the float32 softmax of those
#   numbers. A kernel may round in between; the bits that it used internally cannot be
#   observed.
# - In training mode the map is the softmax before dropout.
# - Where no exact map can be computed, the layer is refused by name, never guessed.
#
# Only what you request
# ---------------------
#
# The map of a long input may be too large for the memory. What you read of it is not:

row = maps[5][:, :, 0]  # of the first token only: nothing else is computed
column = maps[5][..., 3]  # what attends to the token at 3, in blocks of rows
mean = maps[5].head_mean()  # likewise: never holds the map of all heads
row.shape, column.shape, mean.shape

# %%
# Sums, means, extremes and the strongest weights go through the rows in the same way:

received = maps[5].sum(-2)  # what each token receives in all
values, keys = maps[5].topk(3)  # of each query, as torch.topk
values, pairs = maps[5].topk(8, (-2, -1))  # of each head: query and key of the 8
received.shape, keys.shape, pairs.shape

# %%
# Arithmetic waits until its result is read. Here are the strongest changes from one
# layer to the next, and how many tokens get more than a tenth of each query:

changes = abs(maps[5] - maps[4]).topk(3, (-2, -1))
several = (maps[5] > 0.1).sum(-1)
changes.indices.shape, several.shape

# %%
# One index may go through the layers, too: the first row of the first head of each.

maps[:, 0, 0, 0].shape

# %%
# The whole map is ``maps[5].tensor()`` or ``maps[5].numpy()``; functions of torch and
# NumPy compute it, such as ``torch.stack(list(maps))``. :doc:`/benchmarks` has
# measurements for long inputs.
#
# Unfused models
# --------------
#
# :func:`~anylocal.attention.relevance` and editing ``attn`` need the tensor that a
# fused kernel never creates. Turn the fused kernel off:
#
# .. code-block:: python
#
#    timm.layers.set_fused_attn(False)          # timm, before the model is built
#    block.attn.fused_attn = False              # timm, each block of an existing model
#    AutoModel.from_pretrained(name, attn_implementation="eager")  # transformers
