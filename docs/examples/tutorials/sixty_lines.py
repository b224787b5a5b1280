"""
anylocal in 60 lines
====================

Twenty questions, each with the line that answers it. The build of this site ran them
all. Every answer has a page of its own elsewhere; this one is to look things up.

``scenes`` has a DINOv2 ViT with a photograph, and a 6-layer BERT with its tokenizer.
"""

# sphinx_gallery_thumbnail_number = -1

from copy import deepcopy
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from scenes import TEXT, minilm, photo_scene

from anylocal import Assignment, capture, find, plot, store
from anylocal.attention import capture_attention, merge_words, relevance

vit, photo = photo_scene()
bert, tokenizer = minilm()
inputs = tokenizer(TEXT, return_tensors="pt")

# %%
# **1. How do I get all attention maps of a model?** Of timm, of transformers, wrapped
# by PEFT or data parallelism, or your own; and while its kernels stay fused.

with capture_attention(vit) as maps, torch.no_grad():
    vit(photo.tensor)
maps

# %%
# **2. And of a text, with its tokens?**

with capture_attention(bert, tokenizer=tokenizer) as texts, torch.no_grad():
    bert(**inputs)
texts[5].keys.labels()[:4]

# %%
# **3. How do I read one?** A map is indexed like a tensor of (batch, head, query, key).
# Only the rows that you ask for are computed.

head, cls_row, one = maps[3][0, 4], maps["blocks.3.attn"][:, :, 0], maps[3][0, 4, 0, 7]
maps[3].shape, head.shape, cls_row.shape, one.shape

# %%
# **4. As an array? As one tensor of all layers?**

np.asarray(texts[0]).shape, torch.stack(list(texts)).shape

# %%
# **5. Was a layer fused, and did one get no map?** What has none is named, with the
# reason.

maps[0].fused, maps.unsupported

# %%
# **6. What are the positions of a map?**

maps[3].keys, maps[3].keys.grid

# %%
# **7. The mean of the heads? The strongest weights? What each token receives?** Without
# ever holding the map of all heads, however long the input is.

maps[3].head_mean().shape, maps[3].topk(3).indices.shape, maps[3].sum(-2).shape

# %%
# **8. Only some layers?**

with capture_attention(vit, modules="blocks.1?.attn") as last, torch.no_grad():
    vit(photo.tensor)
last.names

# %%
# **9. A whole data set, or a long generation, in little memory?** Keep what a function
# makes of each map; the maps are forgotten with each forward pass.

with capture_attention(vit, reduce=lambda m: m[:, :, 0]) as rows, torch.no_grad():
    vit(photo.tensor)
rows.reduced["blocks.11.attn"][0].shape

# %%
# **10. All steps of** ``generate()`` **as one map?** ``maps.generation()``; see
# :doc:`/how-to/generate`. For the images that a chat looks at, see
# :doc:`/how-to/image_text`.
#
# **11. Words instead of tokens?**

merge_words(texts[5]).keys.labels()[:4]

# %%
# **12. Through all layers?** Rollout needs no gradient; relevance weighs by one, and
# needs a model that computes its maps itself.

maps.rollout().shape

# %%

eager = deepcopy(vit)
for block in eager.blocks:
    block.attn.fused_attn = False
with capture_attention(eager, keep="graph") as graph:
    output = eager(photo.tensor)
relevance(graph, output[:, 0].sum()).shape

# %%
# **13. How do I change the attention?** Where it is assigned, as the model runs. In
# transformers the model must be loaded with ``attn_implementation="eager"``.

softmax = Assignment("attn", uses="softmax")
with capture(eager, edit={softmax: lambda attn: attn.roll(1, dims=1)}), torch.no_grad():
    edited = eager(photo.tensor)

# %%
# **14. What else can I capture?** Any local variable of any function, by its name.

with capture(vit, "q", "k", modules="blocks.3.attn") as cap, torch.no_grad():
    vit(photo.tensor)
cap["q"][0].shape, find(vit)[0].names

# %%
# **15. Of a function that is no model?**


def mean(values):
    """Return the mean."""
    total = sum(values)
    return total / len(values)


with capture(mean, "total") as cap:
    mean([1, 2, 3])
cap["total"]

# %%
# **16. How do I keep maps?** In a file that holds no code.

folder = Path(mkdtemp())
store.save(texts, folder / "maps.safetensors")
store.load(folder / "maps.safetensors")[5].keys.labels()[:4]

# %%
# **17. How do I compare two models?** The difference of two maps is one more map; see
# also ``plot.difference``.

abs(maps[11] - last["blocks.11.attn"]).max()

# %%
# **18. A picture over an image?**

from anylocal_vit import plot as images

figure = images.over_heads(maps[-1], photo, query="cls")

# %%
# **19. Everything at once, to click through?** ``bertviz`` of ``anylocal_bert`` takes
# the same maps.

from anylocal.view import explore

explore(texts).save(folder / "attention.html")

# %%
# **20. A picture of a text?** ``plot`` draws any map, the adapters' own plots know what
# lies under it.

ax = plot.heatmap(texts[5], head=11)

# %%
# What does not work, and why, is told by a message that ends with a word in brackets:
# see :doc:`/messages`. A bug report needs the output of ``python -m anylocal info``.
