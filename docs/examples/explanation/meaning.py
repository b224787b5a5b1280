"""
What attention shows, and what it does not
==========================================

An attention map shows which positions a layer took its values from. It does not show
why the model decided as it did. In between are the values themselves, the other heads,
the residual connections and all later layers.
"""

# %%
# A small experiment
# ------------------
#
# The model is a ViT that was trained on digits. We make the attention of all heads
# uniform, one layer at a time, and count the predictions that do not change.

import matplotlib.pyplot as plt
import torch
from scenes import digit, digits_vit

from anylocal import Assignment, capture

model = digits_vit()
images = torch.cat([digit(which)[0] for which in range(200)])
for block in model.blocks:
    block.attn.fused_attn = False  # so that there is a map to edit


def uniform(attn):
    """Spread the attention of all heads evenly."""
    return torch.full_like(attn, 1 / attn.shape[-1])


softmax = Assignment("attn", uses="softmax")
stay = []
with torch.no_grad():
    answers = model(images).argmax(1)
    for layer in range(4):
        with capture(model, edit={softmax: uniform}, modules=f"blocks.{layer}.attn"):
            stay.append((model(images).argmax(1) == answers).float().mean().item())
for block in model.blocks:
    block.attn.fused_attn = True

figure, ax = plt.subplots(figsize=(4.5, 3), layout="constrained")
ax.set(xlabel="layer whose attention is uniform", xticks=range(4))
ax.set(ylabel="share of predictions\nunchanged", ylim=(0, 1))
bars = ax.bar(range(4), stay)

# %%
# Where predictions do not change, the model did not need what the map of that layer
# shows. The maps themselves do not say which layers these are. A picture of a map
# suggests a hypothesis; an edit (:doc:`/tutorials/edit`) tests it.
#
# What is known
# -------------
#
# *Is attention an explanation?* Jain and Wallace (2019) find very different attention
# distributions that lead to the same predictions, and only a weak correlation with
# gradients. Wiegreffe and Pinter (2019) reply that this depends on what counts as an
# explanation: that alternatives exist does not make the learned distribution
# meaningless, and they give tests for when it is useful. Both study recurrent models
# with one layer of attention; with more layers there is more in between.
#
# *One layer is not the model.* Position 5 of layer 8 is not word 5: every layer before
# has mixed information. Rollout (Abnar and Zuidema 2020) multiplies the layers, with
# the identity for the residual connection. It treats all heads as equal, and ignores
# values and feed-forward blocks.
#
# *The output plays no part.* A map is the same whichever class you ask about.
# Chefer, Gur and Wolf (2021) weight maps by their gradients with respect to an output:
# `anylocal.attention.relevance`.
#
# *Sinks.* A softmax must put its weight somewhere. Heads with nothing to do put it on a
# token that carries little meaning: the first token, ``[SEP]``, punctuation (Xiao et
# al. 2024; for BERT, Clark et al. 2019). A large weight there means "nothing", not
# "important". Large ViTs without registers turn background patches into such sinks,
# which carry information about the whole image, so maps have bright spots where there
# is nothing to see. With registers these disappear (Darcet et al. 2024).
# `anylocal_vit.plot.prefix` measures it.
#
# *Random weights have maps too.* These can seem to have structure: neighbouring patches
# are alike, and so are their queries and keys. Compare with an untrained model
# (:doc:`/gallery/maps/difference`) before you explain a pattern.
#
# What to do with it
# ------------------
#
# - Look at all heads before you choose one, and say how you chose it.
# - One example is an anecdote. Report a number over a data set: :mod:`anylocal.metrics`
#   has entropy, distance and others.
# - Test a hypothesis with an edit, or with gradients.
# - Say "attends to", not "because of".
#
# Literature
# ----------
#
# - Abnar and Zuidema (2020), "Quantifying Attention Flow in Transformers", ACL.
# - Chefer, Gur and Wolf (2021), "Generic Attention-model Explainability for
#   Interpreting Bi-Modal and Encoder-Decoder Transformers", ICCV.
# - Clark, Khandelwal, Levy and Manning (2019), "What Does BERT Look At? An Analysis of
#   BERT's Attention", BlackboxNLP.
# - Darcet, Oquab, Mairal and Bojanowski (2024), "Vision Transformers Need Registers",
#   ICLR.
# - Jain and Wallace (2019), "Attention is not Explanation", NAACL.
# - Wiegreffe and Pinter (2019), "Attention is not not Explanation", EMNLP.
# - Xiao, Tian, Chen, Han and Lewis (2024), "Efficient Streaming Language Models with
#   Attention Sinks", ICLR.
