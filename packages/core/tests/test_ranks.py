"""Two processes under torchrun: each records its own calls, and the maps can be brought together."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch")

from typing import TYPE_CHECKING

import torch

from anylocal.attention import AttentionMap, AttentionMaps
from anylocal.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

HEADER_LENGTH = """
import torch
from torch import distributed, nn
from anylocal import capture
from anylocal.attention import AttentionMap, AttentionMaps, Patches

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x):
        attn = self.project(x).softmax(-1)
        return attn @ x

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model = Model()
x = torch.randn(8, 8, generator=torch.Generator().manual_seed(rank))
first = model.blocks[0].project(x).softmax(-1).detach()
"""

CHECK = """
with capture(wrapped, "attn") as cap:
    wrapped(x).sum().backward()
assert [call.name for call in cap.calls] == ["blocks.0", "blocks.1"], cap.calls
assert [call.rank for call in cap.calls] == [rank, rank]
torch.testing.assert_close(cap["attn"][0], first)
"""

DDP = """
from torch.nn.parallel import DistributedDataParallel
wrapped = DistributedDataParallel(model)
"""

FSDP = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
mesh = init_device_mesh("cpu", (2,))
for block in model.blocks:
    fully_shard(block, mesh=mesh)
wrapped = fully_shard(model, mesh=mesh)
"""

GATHER = """
q = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(rank))
big = torch.zeros(1000, 2, 3, 5, 4)
big[7] = q
axis = Patches(grid=(2, 2), prefix=("cls",))
lazy = AttentionMap.from_qk(big[7], q, name="a", queries=axis, keys=axis, fused=True, rank=rank)
given = AttentionMap.from_weights(torch.full((2, 2), float(rank)), name="b", forward=1, rank=rank)
everything = AttentionMaps([lazy, given]).gather(dst=1)
if rank == 0:
    assert everything is None
else:
    assert [item.name for item in everything] == ["a", "b", "a", "b"]
    assert [item.rank for item in everything] == [0, 0, 1, 1]
    assert [len(maps) for maps in everything.forwards] == [1, 1, 1, 1]
    for other in (0, 1):
        q = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(other))
        found = everything.forwards[2 * other][0]
        torch.testing.assert_close(found.tensor(), AttentionMap.from_qk(q, q).tensor())
        assert found.queries == axis and found.fused
        assert found.rows.q.untyped_storage().nbytes() == q.nbytes
        assert everything.forwards[2 * other + 1][0][0, 0].unique().tolist() == [other]
"""


def torchrun(program: str, folder: Path) -> None:
    """Run a program in two processes, and raise with what they said if it failed."""
    script = folder / "program.py"
    # Left at once: as an interpreter goes down, threads of gloo that still run may abort it.
    script.write_text(HEADER_LENGTH + textwrap.dedent(program) + "\ndistributed.barrier()\nimport os\nos._exit(0)\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wrapper", [DDP, FSDP], ids=["DDP", "FSDP2"])
def test_each_rank_records_its_own_calls(wrapper: str, tmp_path: Path) -> None:
    """With its rank, and the names that the user gave the modules."""
    torchrun(wrapper + CHECK, tmp_path)


def test_maps_are_gathered_on_one_rank(tmp_path: Path) -> None:
    """As what they are made of, and nothing else of the tensor that it was a view of."""
    torchrun(GATHER, tmp_path)


def test_without_other_ranks_there_is_nothing_to_gather() -> None:
    """The one process has all its maps."""
    with pytest.raises(StateError, match="No other ranks"):
        AttentionMaps([AttentionMap.from_weights(torch.eye(2))]).gather()
