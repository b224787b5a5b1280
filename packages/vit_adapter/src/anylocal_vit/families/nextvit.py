"""NextViT: keys pooled along the list of patches, across the ends of rows."""

from typing import Any

import torch

from anylocal.attention import Named
from anylocal_vit._family import Family, Grid


def _runs(module: Any, grid: Grid, keys: int) -> Named | None:
    """Name each key by the first and the last patch of its run."""
    queries = grid[0] * grid[1]
    if not isinstance(module.sr, torch.nn.AvgPool1d) or queries % keys:
        return None
    length = queries // keys
    runs = ((start, start + length - 1) for start in range(0, queries, length))
    return Named(tuple("–".join(str(divmod(end, grid[1])) for end in run) for run in runs))


FAMILY = Family(keys={"EfficientAttention": _runs, "E_MHSA": _runs})
