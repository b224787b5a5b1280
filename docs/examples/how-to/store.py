"""
Save and load maps
==================

`anylocal.store` writes maps with their axes and names into one safetensors file:
nothing in it can run code, and other tools read it.
"""

import tempfile
from pathlib import Path

from scenes import photo_scene

from anylocal import store
from anylocal_vit import capture_attention, plot

model, photo = photo_scene()
with capture_attention(model) as maps:
    model(photo.tensor)

file = store.save(maps, Path(tempfile.mkdtemp()) / "maps.safetensors")
loaded = store.load(file)
loaded

# %%
# Loaded maps draw like the saved ones, and need neither the model nor timm:

ax = plot.query(loaded["blocks.11.attn"], photo.pixels, query="cls")

# %%
# Saving computes complete maps, also of fused layers. If that is too much, save fewer:

from anylocal.attention import AttentionMaps

small = store.save(AttentionMaps(maps[-1:]), file.with_name("last.safetensors"))
file.stat().st_size, small.stat().st_size

# %%
# Without anylocal
# ----------------

from safetensors.torch import load_file

{name: tuple(tensor.shape) for name, tensor in load_file(small).items()}

# %%
# The file format is described in :doc:`/store-format`.
