"""
Statistics over a data set
==========================

One picture is an anecdote. :mod:`anylocal.metrics` has statistics of attention as
metrics of torchmetrics: give them the maps of batch after batch. They keep sums only,
and add up over the ranks of torch.distributed.

A small ViT that was trained on digits.
"""

import matplotlib.pyplot as plt
import torch
from scenes import digit, digits_vit

from anylocal.metrics import AttentionDistance, AttentionEntropy, MeanMap
from anylocal_vit import capture_attention, plot

model = digits_vit()
images = torch.cat([digit(which)[0] for which in range(128)])
entropy, distance, mean = AttentionEntropy(), AttentionDistance(), MeanMap()
for batch in images.split(32):
    with capture_attention(model) as maps, torch.no_grad():
        model(batch)
    for metric in (entropy, distance, mean):
        metric.update(maps)

# %%
# Each is a number for every head of every layer.

entropy.compute().shape, distance.compute()

# %%
figure, ax = plt.subplots(figsize=(4.5, 3), layout="constrained")
ax.plot(distance.compute(), marker="o", label=[f"head {head}" for head in range(4)])
ax.set(xlabel="layer", ylabel="mean distance (pixels)", xticks=range(4))
legend = ax.legend(fontsize="small")

# %%
# The mean map of each layer is a map like any other, and goes into every recipe.

figure = plot.model(mean.compute())

# %%
# A folder of images, a collection of texts
# -----------------------------------------
#
# For whole data sets there is a command. It reads a folder of images (or of texts, a
# line each), or a data set that Hugging Face's ``datasets`` has saved, and writes a
# Parquet table and pictures:
#
# .. code-block:: console
#
#    $ python -m anylocal_vit survey --model vit_small_patch16_224 --data images/
#    $ python -m anylocal_bert survey --data texts/
#
# It needs the extra ``anylocal-vit[survey]`` or ``anylocal-bert[survey]``. Stopped, or
# killed, and started again, it goes on: no sample counts twice, none is lost. Under
# torchrun the processes share the work, and the table is the same:
#
# .. code-block:: console
#
#    $ torchrun --nproc-per-node 8 -m anylocal_vit survey --model … --data images/
#
# That this is so for ten thousand images, and that the memory does not grow, is in the
# :doc:`benchmarks </benchmarks>`.
