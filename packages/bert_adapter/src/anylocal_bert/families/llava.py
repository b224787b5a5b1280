"""LLaVA, also with Pixtral as its vision tower, and VipLLaVA: each patch of an image has a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anylocal_bert._family import Family, Run, images, sized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def _media(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    config = model.config
    side = config.vision_config.patch_size
    if given.get("image_sizes") is not None:
        yield from sized(given["image_sizes"], side)
        return
    strategy = given.get("vision_feature_select_strategy") or getattr(config, "vision_feature_select_strategy", "")
    # With all features, a class token has a placeholder of its own.
    has_cls = strategy == "full" and config.vision_config.model_type.startswith("clip")
    yield from images(given.get("pixel_values"), side, before=int(has_cls))


FAMILY = Family(media={r"(Vip)?Llava(Model|ForConditionalGeneration)": _media})
