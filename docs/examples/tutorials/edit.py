"""
Edit a value in the forward pass
================================

``edit=`` replaces a value as it is assigned, while the model runs: the simplest way to
find out what a model *needs* a value for. Here we make the attention of a ViT uniform,
one head at a time, and see how its predictions change.

``scenes`` is a module with a small ViT that is trained on digits; the notebook writes
it in its second cell.
"""

import torch
from scenes import digit, digits_vit

model = digits_vit()

# %%
# A fused layer never computes its map, so there is nothing to edit. Turn the fused
# kernel off.

for block in model.blocks:
    block.attn.fused_attn = False

# %%
# In ``forward`` of timm's attention, the softmax is assigned to ``attn``.
# :func:`~anylocal.find` shows that name.

from anylocal import capture, find

next(site for site in find(model) if "attn" in site.names)

# %%
# One edit
# --------
#
# The function gets the value that is about to be assigned, and returns what to assign
# instead. ``attn`` is assigned more than once: first the scores, then the softmax, then
# the output of dropout. :class:`~anylocal.Assignment` says which of them is meant, here
# by what its right-hand side uses.

from anylocal import Assignment

SOFTMAX = Assignment("attn", uses="softmax")


def uniform(head):
    """Return an edit that spreads one head's attention evenly."""

    def edit(attn):
        edited = attn.clone()
        edited[:, head] = 1 / attn.shape[-1]
        return edited

    return edit


images = torch.cat([digit(which)[0] for which in range(100)])
with torch.no_grad():
    before = model(images)
    with capture(model, edit={SOFTMAX: uniform(0)}, modules="blocks.3.attn"):
        edited = model(images)
    after = model(images)
print(
    f"changed predictions: {(before.argmax(1) != edited.argmax(1)).float().mean():.0%}"
)
print(f"the model is unchanged: {torch.equal(before, after)}")

# %%
# Every head
# ----------

import matplotlib.pyplot as plt

changed = torch.zeros(4, 4)
with torch.no_grad():
    for layer in range(4):
        for head in range(4):
            with capture(
                model, edit={SOFTMAX: uniform(head)}, modules=f"blocks.{layer}.attn"
            ):
                changed[layer, head] = (
                    (model(images).argmax(1) != before.argmax(1)).float().mean()
                )

figure, ax = plt.subplots(figsize=(4.5, 3.4), layout="constrained")
image = ax.imshow(changed.numpy(), cmap="magma", vmin=0)
ax.set(xlabel="head", ylabel="layer", xticks=range(4), yticks=range(4))
figure.colorbar(image, label="share of predictions\nthat change")

# %%
# An edit that is never applied warns (:class:`~anylocal.errors.EditNotAppliedWarning`),
# so a misspelt path cannot pass for "no effect", and an assignment that does not exist
# is refused with those that do. To edit and record at the same time:
# ``capture(model, "attn", edit={"attn": …})``.
#
# Turn the fused kernel on again:

for block in model.blocks:
    block.attn.fused_attn = True
