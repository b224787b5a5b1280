"""
torch.compile and DDP
=====================

Capture the model that you run: compiled, wrapped, or both. The graph does not break,
and modules keep their names.

A small ViT with **random weights**.
"""

import timm
import torch

from anylocal_vit import capture_attention

torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3).eval()
images = torch.randn(2, 3, 64, 64)

# %%
# Compiled
# --------
#
# Any backend works; this one, unlike inductor, does not need a C++ compiler.

with capture_attention(model) as eager, torch.no_grad():
    model(images)

compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
with capture_attention(compiled) as maps, torch.no_grad():
    compiled(images)
for ours, theirs in zip(maps, eager, strict=True):
    print(f"{ours.name}: {(ours.tensor() - theirs.tensor()).abs().max():.0e} apart")

# %%
# Opening and closing a capture drops what was compiled: the next call compiles again.
# For many batches, keep one capture open and clear it:

from anylocal import capture

with capture(compiled, "q", keep="clone") as cap, torch.no_grad():
    for _ in range(3):
        cap.clear()
        compiled(images)
        print(len(cap["q"]), "values of q")

# %%
# Capturing a compiled model has no measurable cost: see :doc:`/benchmarks`.
#
# DDP
# ---
#
# Capture the wrapper as you capture the model. This page runs a single process, which
# stands for one of ``torchrun``'s, and a tiny BERT, also with random weights.

import tempfile
from pathlib import Path

from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel

import anylocal_bert

meeting = Path(tempfile.mkdtemp()) / "meeting"
distributed.init_process_group(
    "gloo", init_method=meeting.as_uri(), rank=0, world_size=1
)
bert = BertModel(
    BertConfig(
        num_hidden_layers=2, hidden_size=48, num_attention_heads=3, intermediate_size=96
    )
)
ddp = DistributedDataParallel(bert.eval(), find_unused_parameters=True)
with anylocal_bert.capture_attention(ddp) as maps, torch.no_grad():
    ddp(torch.tensor([[101, 7592, 102]]))
maps.names, maps[0].rank

# %%
# Every rank has its own maps. :meth:`~anylocal.attention.AttentionMaps.gather` collects
# them on rank 0; every rank must call it.

everything = maps.gather()
distributed.destroy_process_group()
everything

# %%
# For FSDP, checkpointing, autocast, threads and generation, see :doc:`/where-it-runs`.
