"""LLaVA, also with Pixtral as its vision tower, VipLLaVA and Video-LLaVA: each patch of an image has a token."""

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


def _video_llava(model: Any, given: Mapping[str, Any]) -> Iterator[Run | str]:
    yield from _media(model, given)
    shape = given.get("pixel_values_videos")
    if shape is not None:
        side, frames = model.config.vision_config.patch_size, shape[1]
        frame = next(images(shape[2:], side)).patches
        # The class token of each frame has a placeholder, too.
        cells = [cell + at * len(frame) if cell >= 0 else -1 for at in range(frames) for cell in range(-1, len(frame))]
        for source in range(shape[0]):
            yield Run("video", source, frame, cells, frames)


FAMILY = Family(
    media={
        r"(Vip)?Llava(Model|ForConditionalGeneration)": _media,
        r"VideoLlava(Model|ForConditionalGeneration)": _video_llava,
    }
)
