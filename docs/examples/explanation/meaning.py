"""
What attention shows, and what it does not
==========================================

An attention map shows where a layer took its values from. It does not show why the
model decided as it did. Between the two lie the values themselves, the other heads, the
residual connections and all later layers.
"""

# %%
# A small experiment
# ------------------
#
# A ViT that was trained on digits. We make the attention of each whole layer uniform,
# one layer at a time, while it runs, and count the answers that stay.

import matplotlib.pyplot as plt
import torch
from scenes import digit, digits_vit

from anylocal import capture

model = digits_vit()
images = torch.cat([digit(which)[0] for which in range(200)])
for block in model.blocks:
    block.attn.fused_attn = False  # so that there is a map to edit


def uniform(attn):
    """Spread the attention of all heads evenly; leave the scores as they are."""
    is_map = torch.allclose(attn.sum(-1), torch.ones(()), atol=1e-4)
    return torch.full_like(attn, 1 / attn.shape[-1]) if is_map else attn


stay = []
with torch.no_grad():
    answers = model(images).argmax(1)
    for layer in range(4):
        with capture(model, edit={"attn": uniform}, modules=f"blocks.{layer}.attn"):
            stay.append((model(images).argmax(1) == answers).float().mean().item())
for block in model.blocks:
    block.attn.fused_attn = True

figure, ax = plt.subplots(figsize=(4.5, 3), layout="constrained")
ax.set(xlabel="layer whose attention is uniform", xticks=range(4))
ax.set(ylabel="share of answers\nthat stay", ylim=(0, 1))
bars = ax.bar(range(4), stay)

# %%
# Where the answers stay, the model did not need what the map of that layer shows. The
# maps themselves do not say which layers these are. A picture of a map is a question;
# an edit (:doc:`/tutorials/edit`) is a way to ask it.
#
# What is known
# -------------
#
# *Is attention an explanation?* Jain and Wallace (2019) find attention distributions
# that are very different and give the same answers, and that they correlate weakly with
# gradients. Wiegreffe and Pinter (2019) answer that this depends on what an explanation
# is meant to be: that others exist does not make the one that was learned meaningless,
# and they give tests for when it is useful. Both are about recurrent models with one
# layer of attention; with more layers there is more in between.
#
# *One layer is not the model.* Position 5 of layer 8 is not word 5: information was
# mixed in every layer before. Rollout (Abnar and Zuidema 2020) multiplies the layers,
# with the identity for the residual connection. It takes all heads to be equal, and
# ignores values and feed-forward blocks.
#
# *The output does not come in.* A map is the same whichever class you ask about.
# Chefer, Gur and Wolf (2021) weight maps by their gradients with respect to an output:
# `anylocal.attention.relevance`.
#
# *Sinks.* A softmax must spend its weight somewhere. Heads with nothing to do give it
# to a token that says little: the first token, ``[SEP]``, punctuation (Xiao et al.
# 2024; for BERT, Clark et al. 2019). A large weight there means "nothing", not
# "important". In large ViTs without registers, patches of the background are made into
# such places, and carry what belongs to the whole image, so maps have bright spots
# where nothing is. With registers these go away (Darcet et al. 2024).
# `anylocal_vit.plot.prefix` measures it.
#
# *Random weights have maps too.* They can look like structure: neighbouring patches are
# alike, and so are their queries and keys. Compare with an untrained model
# (:doc:`/gallery/maps/difference`) before you explain a pattern.
#
# What to do with it
# ------------------
#
# - Look at all heads before you choose one, and say how it was chosen.
# - One example is an anecdote. Give a number over a data set: :mod:`anylocal.metrics`
#   has entropy, distance and others.
# - Test what you believe by an edit, or by gradients.
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
