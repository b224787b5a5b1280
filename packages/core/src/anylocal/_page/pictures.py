"""The images within texts: which text has how many, as the model saw them, and where their patches are on the page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from anylocal._drawing.image import seen_in_text
from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches
from anylocal._maps.tokens import Tokens
from anylocal._page.png import data_url
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anylocal._drawing.image import ImageLike, Statistics
    from anylocal._maps.map import AttentionMap
    from anylocal._maps.media import Media

Key: TypeAlias = tuple[int, int, tuple[int, int] | None]
"""A sample, an image of its text, and the size in which the model saw it."""

MOST: Final = 920
"""Most pixels of a side: twice the widest picture of the page."""


@dataclass
class Album:
    """Pictures by what they are of, and the data URLs of those that a page needs, each once."""

    found: Mapping[Key, str] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)

    def number(self, axis: Tokens, sample: int, item: Media) -> int | None:
        """Return the index of the picture of an image in the text of a sample, None where there is none."""
        # A tile whose place is not known is no part of a picture that could be told.
        url = None if item.view.startswith("tile ") else self.found.get(_key(axis, sample, item))
        if item.kind != "image" or url is None:
            return None
        if url not in self.urls:
            self.urls.append(url)
        return self.urls.index(url)


def has_images(layers: Iterable[AttentionMap]) -> bool:
    """Return whether any text has an image in it."""
    return any(item.kind == "image" for axis in _texts(layers) for item in axis.media)


def pictures_of(
    images: ImageLike | Sequence[ImageLike],
    layers: Sequence[AttentionMap],
    samples: Sequence[int],
    mean: Statistics,
    std: Statistics,
) -> dict[Key, str]:
    """Return the images of the texts of some samples as data URLs, of each size that the model saw."""
    batch = layers[0].images
    each = _by_text(images, [_count(layers, sample) for sample in range(batch)], samples)
    found: dict[Key, str] = {}
    for layer in layers:
        for axis in _texts([layer]):
            for sample in samples:
                for item in images_in(axis, sample):
                    key = _key(axis, sample, item)
                    if key not in found and not item.view.startswith("tile "):
                        image, seen = each[sample][item.source], replace(item.patches, image_size=key[-1])
                        found[key] = data_url(seen_in_text(seen, image, layer.model, mean=mean, std=std), MOST)
    return found


def tower_sources(
    images: ImageLike | Sequence[ImageLike],
    layers: Sequence[AttentionMap],
    samples: Sequence[int],
    mean: Statistics,
    std: Statistics,
) -> list[str]:
    """Return the image of each sample for layers that see the patches of one image, as a vision tower does."""
    batch = layers[0].images
    sides = (axis for layer in layers for axis in (layer.queries, layer.keys))
    axes = [axis for axis in sides if isinstance(axis, Patches | PlacedPatches)]
    each = _by_text(images, [_count(layers, sample) for sample in range(batch)], samples)
    if len({axis.image_size for axis in axes}) != 1 or any(len(each[sample]) != 1 for sample in samples):
        return []
    patches = Patches(axes[0].grid, prefix=(), image_size=axes[0].image_size)
    model = layers[0].model
    return [data_url(seen_in_text(patches, each[sample][0], model, mean=mean, std=std), MOST) for sample in samples]


def size_of(axis: Tokens, sample: int, item: Media) -> tuple[int, int] | None:
    """Return the size of the whole image: models squeeze it into the square of their overview, but not into tiles."""
    tiles = (each for each in media_of(axis, sample) if (each.source, each.view) == (item.source, "tiles"))
    return next(tiles, item).patches.image_size if item.view == "overview" else item.patches.image_size


def images_in(axis: Tokens, sample: int) -> list[Media]:
    """Return the images, and the views of images, in the text of a sample."""
    return [item for item in media_of(axis, sample) if item.kind == "image"]


def describe_media(axis: Tokens, sample: int, album: Album) -> list[dict[str, Any]]:
    """Return the grids of patches in the text of a sample: of each view of an image, and of each frame of a video."""
    found = []
    for item in media_of(axis, sample):
        if item.kind == "audio":
            continue
        name = f"{item.kind} {item.source}{f' {item.view}' if item.view else ''}"
        frames = np.reshape(item.positions, (item.frames or 1, -1)).tolist()
        for frame, positions in enumerate(frames):
            found.append(
                {
                    "name": name if item.frames is None else f"{name} frame {frame}",
                    "grid": item.patches.grid,
                    "size": size_of(axis, sample, item),
                    "positions": positions,
                    "picture": album.number(axis, sample, item),
                    "source": item.source,
                    "view": item.view,
                }
            )
    return found


def media_of(axis: Tokens, sample: int) -> list[Media]:
    """Return the images, videos and sounds in the text of a sample."""
    text = 0 if len(axis.texts) == 1 else sample
    return [item for item in axis.media if item.text == text]


def _texts(layers: Iterable[AttentionMap]) -> list[Tokens]:
    return [axis for layer in layers for axis in (layer.queries, layer.keys) if isinstance(axis, Tokens)]


def _key(axis: Tokens, sample: int, item: Media) -> Key:
    return sample, item.source, size_of(axis, sample, item)


def _count(layers: Sequence[AttentionMap], sample: int) -> int:
    """Return how many images the text of a sample has."""
    return 1 + max((item.source for axis in _texts(layers) for item in images_in(axis, sample)), default=-1)


def _by_text(images: Any, counts: Sequence[int], samples: Sequence[int]) -> dict[int, list[ImageLike]]:
    """Return the images of each text: given as such, or as all images one after the other."""
    images = getattr(images, "pixels", images)
    given = list(images) if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4 else [images]  # noqa: PLR2004  # a batch
    if any(isinstance(each, list | tuple) for each in given):
        several = [list(each) if isinstance(each, list | tuple) else [each] for each in given]
        if [len(each) for each in several] == list(counts):
            return dict(enumerate(several))
    elif len(given) == sum(counts):
        rest = iter(given)
        return {sample: [next(rest) for _ in range(count)] for sample, count in enumerate(counts)}
    elif len({counts[sample] for sample in samples} | {len(given)}) == 1 and len(samples) == 1:
        return {samples[0]: given}
    told = f"{', '.join(map(str, counts))} in {len(counts)} texts" if len(counts) > 1 else str(counts[0])
    each = [len(item) if isinstance(item, list | tuple) else 1 for item in given]
    msg = (
        f"images= has {', '.join(map(str, each)) if len(each) != sum(each) else len(given)} images and the maps have"
        f" {told}; give a list of the images of each text, in their order."
    )
    raise ShapeError(msg)
