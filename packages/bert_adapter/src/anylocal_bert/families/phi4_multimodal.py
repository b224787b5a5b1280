"""Phi-4-multimodal: tiles as one grid without padding, each row of which ends with a separator, and the whole image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    sizes, masks, vision = given.get("image_sizes"), given.get("image_attention_mask"), model.config.vision_config
    if sizes is not None and masks is not None:
        across = -(-vision.image_size // vision.patch_size // 2)
        for source, (height, width) in enumerate(sizes.reshape(-1, 2).tolist()):
            down, right = height // vision.crop_size, width // vision.crop_size
            # The first is that of the whole image; two patches make a token, which the mask of the first decides.
            seen = masks[source, 1 : down * right + 1, ::2, ::2].bool().reshape(down, right, across, across)
            high, wide = int(seen[:, 0, :, 0].sum()), int(seen[0, :, 0].sum())
            size = high * vision.crop_size // across, wide * vision.crop_size // across
            tiles, whole = Patches((high, wide), prefix=(), image_size=size), _whole(across, vision.crop_size)
            yield Run("image", source, tiles, [*_rows(tiles), -1], view="tiles")
            yield Run("image", source, whole, _rows(whole), view="overview")
    if given.get("audio_input_features") is not None:
        yield "how it places sounds in its text"


def _whole(across: int, side: int) -> Patches:
    return Patches((across, across), prefix=(), image_size=(side, side))


def _rows(patches: Patches) -> list[int]:
    """Return the patches of each row, with the separator after it."""
    rows = np.arange(len(patches)).reshape(patches.grid)
    ended: list[int] = np.pad(rows, ((0, 0), (0, 1)), constant_values=-1).ravel().tolist()
    return ended


FAMILY = Family(media={r"Phi4Multimodal(Model|ForCausalLM)": _media})
