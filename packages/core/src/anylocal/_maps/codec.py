"""Axes as plain data, for JSON, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anylocal._maps.media import Media
from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches
from anylocal._maps.positions import Axis, Named
from anylocal._maps.tokens import Tokens
from anylocal._maps.video_patches import VideoPatches

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS: Final[Mapping[str, type[Axis]]] = {
    kind.__name__: kind for kind in (Axis, Named, Patches, PlacedPatches, Tokens, VideoPatches)
}


def encode(axis: Axis) -> dict[str, Any]:
    """Return the kind of an axis and its arguments, fit for JSON except for the array ``places`` of placed patches."""
    match axis:
        case Patches():
            return {"kind": "Patches", **_image(axis)}
        case PlacedPatches(places=places):
            return {"kind": "PlacedPatches", **_image(axis), "places": places}
        case VideoPatches(grid=grid, prefix=prefix, image_size=size):
            return {"kind": "VideoPatches", "grid": grid, "prefix": prefix, "image_size": size}
        case Named(names=names):
            return {"kind": "Named", "names": names}
        case Tokens(texts=texts, start=start):
            samples = range(len(texts))
            flags = {
                "padding": [axis.is_padding(sample).tolist() for sample in samples],
                "special": [axis.is_special(sample).tolist() for sample in samples],
            }
            segments = [axis.segments(sample) for sample in samples]
            media: dict[str, Any] = {"media": [_media(item) for item in axis.media]} if axis.media else {}
            media |= {"media_unknown": axis.media_unknown} if axis.media_unknown else {}
            given = {"texts": texts, **flags, "start": start, **axis.split, "segments": segments, **media}
            return {"kind": "Tokens", **given}
    return {"kind": "Axis", "length": len(axis)}


def decode(given: Mapping[str, Any]) -> Axis:
    """Return the axis that was encoded; an unknown kind or wrong arguments raise as they do in Python."""
    arguments = dict(given)
    kind = _KINDS[arguments.pop("kind")]
    if kind is Tokens:
        arguments["tokens"] = arguments.pop("texts")
        arguments["media"] = [Media(**item | {"patches": decode(item["patches"])}) for item in given.get("media", ())]
    return kind(**arguments)


def _image(axis: Patches | PlacedPatches) -> dict[str, Any]:
    padding = {"image_padding": axis.image_padding} if any(axis.image_padding) else {}
    return {"grid": axis.grid, "prefix": axis.prefix, "image_size": axis.image_size, **padding}


def _media(item: Media) -> dict[str, Any]:
    return {**vars(item), "patches": encode(item.patches)}
