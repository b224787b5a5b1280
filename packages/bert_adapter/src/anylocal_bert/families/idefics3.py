"""Idefics3 and SmolVLM: squares of patches are merged; an image may be divided into tiles, which its text numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from anylocal.attention import Patches
from anylocal_bert._family import Family, Run, tiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

_TILE: Final = re.compile(r"<row_(\d+)_col_(\d+)>")


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    shape = given.get("pixel_values")
    if shape is None:
        return
    vision = model.config.vision_config
    side = vision.patch_size * model.config.scale_factor
    tile = Patches((shape[-2] // side, shape[-1] // side), prefix=(), image_size=(shape[-2], shape[-1]))
    source = 0
    for row in given["input_ids"]:
        names = _names(row, given["tokens"]["image"], len(tile), given["tokenizer"])
        if names is None:
            yield "which tiles belong to one image, which only a tokenizer tells: capture with tokenizer=…"
            return
        places: list[tuple[int, int]] = []
        for name in names:
            found = _TILE.fullmatch(name)
            if found is not None:
                places.append((int(found[1]), int(found[2])))
                continue
            if places:
                yield tiled(source, tile, places)
            yield Run("image", source, tile, range(len(tile)), view="overview" if places else "")
            places = []
            source += 1


def _names(row: torch.Tensor, token: int, length: int, tokenizer: Any) -> Sequence[str] | None:
    """Return the token before each tile of a text, which names it; None where it is needed and not known."""
    places = (row == token).nonzero().flatten().tolist()[::length]
    if len(places) <= 1:
        return [""] * len(places)
    if tokenizer is None:
        return None
    return [tokenizer.convert_ids_to_tokens(int(row[place - 1])) for place in places]


FAMILY = Family(media={r"(Idefics3|SmolVLM)(Model|ForConditionalGeneration)": _media})
