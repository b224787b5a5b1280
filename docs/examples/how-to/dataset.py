"""
Statistics over a data set
==========================

One picture is an anecdote. :mod:`anylocal.metrics` has statistics of attention as
torchmetrics metrics: update them with the maps of each batch. They keep only sums, and
reduce over the ranks of torch.distributed.

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
# Each has a number for every head of every layer.

entropy.compute().shape, distance.compute()

# %%
figure, ax = plt.subplots(figsize=(4.5, 3), layout="constrained")
ax.plot(distance.compute(), marker="o", label=[f"head {head}" for head in range(4)])
ax.set(xlabel="layer", ylabel="mean distance (pixels)", xticks=range(4))
legend = ax.legend(fontsize="small")

# %%
# The mean map of each layer is a map like any other, and works with every recipe.

figure = plot.model(mean.compute())

# %%
# Anything else
# -------------
#
# ``reduce=`` takes a function of a map. Its results are kept, by the name of the
# module, and the maps go with each forward pass: one scope around a loop needs the
# memory of one batch. Here it is the row of the class token, averaged over heads.

with (
    capture_attention(model, reduce=lambda item: item[:, :, 0].mean(1)) as maps,
    torch.no_grad(),
):
    for batch in images.split(32):
        model(batch)

rows = {name: torch.cat(values) for name, values in maps.reduced.items()}
{name: tuple(values.shape) for name, values in rows.items()}

# %%
# With ``keep="graph"`` the results have gradients, for a loss of the maps.
#
# A folder of images, a collection of texts
# -----------------------------------------
#
# For whole data sets, use the command line. It reads a folder of images (or of text
# files, one text per line), or a data set saved by Hugging Face's ``datasets``, and
# writes a Parquet table and pictures:
#
# .. code-block:: console
#
#    $ python -m anylocal_vit survey --model vit_small_patch16_224 --data images/
#    $ python -m anylocal_bert survey --data texts/
#
# It needs the extra ``anylocal-vit[survey]`` or ``anylocal-bert[survey]``. If it is
# stopped or killed, start it again and it continues: no sample is counted twice, and
# none is lost. Under torchrun the processes share the work, and the table is the same:
#
# .. code-block:: console
#
#    $ torchrun --nproc-per-node 8 -m anylocal_vit survey --model … --data images/
#
# The :doc:`benchmarks </benchmarks>` verify this for ten thousand images, and that
# memory does not grow.
