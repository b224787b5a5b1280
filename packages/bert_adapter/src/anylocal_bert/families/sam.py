"""SAM and SAM 2, in whose decoder the tokens of a prompt attend to an image's embedding, and it to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anylocal.adapter import MapAxes
from anylocal.attention import Patches
from anylocal_bert._family import Family

if TYPE_CHECKING:
    from anylocal_bert._family import Layer


def _grids(layer: Layer) -> MapAxes | None:
    given = layer.given("")
    shape, prompts = given.get("image_embeddings"), given.get("sparse_prompt_embeddings")
    if shape is None:
        return None
    image = Patches(shape[-2:], prefix=(), image_size=layer.image)
    # Each image has several prompts, one after the other in the batch.
    count = 1 if prompts is None else prompts[1]
    return MapAxes(
        image if "image_to_token" in layer.name else None, image if "token_to_image" in layer.name else None, count
    )


FAMILY = Family(grids={r"Sam(HQ|2)?MaskDecoder": _grids})
