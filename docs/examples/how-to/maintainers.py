"""
Maps of timm and transformers, for their users
==============================================

A page to link to when somebody asks a model library for its attention maps. Both
libraries run fused kernels by default, and these never compute the map, so that there
is nothing to return: ``output_attentions=True`` gives nothing, and a forward hook does
not see it.

timm
----

``pip install anylocal-vit``. Model and kernels stay as they are, the output is
bit-equal, and after the ``with`` block nothing is left in the model.
"""

import timm
import torch

from anylocal_vit import capture_attention

torch.manual_seed(0)
model = timm.create_model("vit_small_patch16_224").eval()  # with pretrained=True
images = torch.randn(2, 3, 224, 224)
with capture_attention(model) as maps, torch.no_grad():
    model(images)
maps[11]

# %%
# ``maps["blocks.11.attn"][0, 4]`` is head 4 of the first image. Windows, pooled keys,
# class attention and registers are labelled: :doc:`/zoo` lists all families, each
# checked against float64.
#
# Without a further package
# -------------------------
#
# For a plain ViT, the softmax can be computed once more from what ``qkv`` returns, by
# hooks of timm's users:

qkv = {}
hooks = [
    block.attn.qkv.register_forward_hook(lambda _, __, out, i=i: qkv.update({i: out}))
    for i, block in enumerate(model.blocks)
]
with torch.no_grad():
    model(images)
for hook in hooks:
    hook.remove()

attn = model.blocks[11].attn
q, k, _ = qkv[11].unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
by_hooks = (q @ k.mT * attn.scale).softmax(-1)
f"{(by_hooks - maps[11].tensor()).abs().max():.0e}"

# %%
# It is right for this model, and silently wrong for one with rotary positions, relative
# biases, normalized queries, masks or windows: a hook sees what a module returns, not
# what the kernel is given.
#
# The other way is to turn the kernel off, which takes time and memory. In timm it has
# to happen before the model is built, or in each block:
#
# .. code-block:: python
#
#    timm.layers.set_fused_attn(False)
#    model = timm.create_model(NAME)
#    timm.utils.AttentionExtract(model)(images)  # the maps, by name
#
# transformers
# ------------
#
# ``pip install anylocal-bert``, for encoders, decoders, encoder-decoders, vision and
# vision-language models: :doc:`/zoo-transformers`.

from scenes import TEXT, minilm

from anylocal_bert import capture_text

bert, tokenizer = minilm()  # or AutoModel.from_pretrained(NAME).eval(), and its own
texts = capture_text(bert, tokenizer, TEXT)
texts[5]

# %%
# The model's own are those of ``attn_implementation="eager"``, with
# ``output_attentions=True``. A map of the fused model is the same:

from transformers import AutoModel

from anylocal_bert.minilm import folder

eager = AutoModel.from_pretrained(folder(), attn_implementation="eager").eval()
with torch.no_grad():
    own = eager(**tokenizer(TEXT, return_tensors="pt"), output_attentions=True)
f"{(texts[5].tensor() - own.attentions[5]).abs().max():.0e}"

# %%
# Under ``generate()`` the steps join to one map: :doc:`/how-to/generate`. With
# ``reduce=``, maps of long texts are forgotten after each forward pass.
#
# How it works, and what a library can do for it
# ----------------------------------------------
#
# For the time of the ``with`` block, the bytecode of the functions that compute
# attention also notes what they pass to the kernel (:doc:`/explanation/capturing`). The
# map is the float32 softmax of that, computed when it is read. Nothing of the library
# is imported that a user has not, and no private name of it is needed, as long as
#
# - attention is computed by Python code that calls a known kernel, or that assigns one
#   softmax of query and key to a variable;
# - what changes the scores is passed to the kernel, as mask, bias, scale or flag;
# - the function gets its module, or is called by it.
#
# What cannot be read exactly is refused by name. Newer releases of both libraries are
# tried, with a warning, as soon as they are out.
