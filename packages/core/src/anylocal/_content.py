"""What the interactive page knows of its maps besides their weights, as JSON: layers, axes, images."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image

from anylocal._image import pixels_of
from anylocal._model import row_names
from anylocal.attention import AttentionMap, Axis, Named, Patches, PlacedPatches, Tokens
from anylocal.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from anylocal._draw import Cmap
    from anylocal._image import ImageLike, Pixels, Statistics
    from anylocal._payload import Layer

_COLOURS = 256


def describe(
    given: Sequence[AttentionMap], chosen: Sequence[int], samples: Sequence[int], packed: Iterable[Layer]
) -> dict[str, Any]:
    """Return what the script needs to know of the layers and their axes."""
    layers = [given[at] for at in chosen]
    axes: dict[tuple[Axis, int], int] = {}
    shorts, _ = row_names(layers, float("inf"), 1)
    twice = {name for name, count in Counter(layer.name for layer in given).items() if count > 1 or not name}
    rows = []
    for at, layer, short, pack in zip(chosen, layers, shorts, packed, strict=True):
        queries, keys = (axes.setdefault((axis, layer.windows), len(axes)) for axis in (layer.queries, layer.keys))
        rows.append(
            {
                "name": layer.name,
                "short": short,
                # How Python reaches it: layers that share a name, only by their place.
                "ref": str(at) if layer.name in twice else repr(layer.name),
                "shape": (len(samples), layer.windows, *layer.shape[1:]),
                "queries": queries,
                "keys": keys,
                "most": pack.most,
                "differences": pack.differences,
                "thumb": pack.thumbs[0][0].levels.shape,
            }
        )
    return {
        "layers": rows,
        "axes": [_describe_axis(axis, samples, windows) for axis, windows in axes],
        "samples": list(samples),
        "start": {"layer": len(chosen) - 1, "head": "mean", "query": _middle(given[chosen[-1]].queries, samples[0])},
    }


def named(attention: AttentionMap, tokens: Tokens | None) -> AttentionMap:
    """Return the map with tokens on the axes that only count their positions, where the numbers agree."""
    if tokens is None:
        return attention
    axes = {"queries": attention.queries, "keys": attention.keys}
    fitting = {side: tokens for side, axis in axes.items() if type(axis) is Axis and len(axis) == len(tokens)}
    return attention.labelled(**fitting) if fitting else attention


def colours_of(cmap: Cmap) -> str:
    """Return the colours of a colormap, red, green and blue of each, in base64."""
    table = (cmap if isinstance(cmap, Colormap) else colormaps[cmap])(np.linspace(0, 1, _COLOURS), bytes=True)
    return base64.b64encode(np.asarray(table)[:, :3].tobytes()).decode("ascii")


def sources_of(
    images: ImageLike | Sequence[ImageLike],
    layers: Sequence[AttentionMap],
    samples: Sequence[int],
    mean: Statistics,
    std: Statistics,
) -> list[str]:
    """Return the image of each sample as an address that holds it: PNG, which loses nothing.

    Raises
    ------
    OptionError
        Where no layer has patches.
    ShapeError
        Where the images are others than those that the model saw, by number or size.
    """
    sides = [axis for layer in layers for axis in (layer.queries, layer.keys)]
    patches = [axis for axis in sides if isinstance(axis, Patches | PlacedPatches)]
    if not patches:
        msg = f"There are images, and the positions of {layers[0]!r} are no patches; leave images= out."
        raise OptionError(msg)
    batch = layers[0].images
    each: Sequence[ImageLike] = images if isinstance(images, list | tuple) else [images]
    if len(each) not in {1, batch}:
        msg = f"There are {len(each)} images and the maps have {batch}; give one for each sample."
        raise ShapeError(msg)
    chosen = [(each[sample % len(each)], sample) for sample in samples]
    pictures = [pixels_of(image, sample=sample, batch=batch, mean=mean, std=std) for image, sample in chosen]
    for picture in pictures:
        for axis in patches:
            if axis.image_size not in {None, picture.shape[:2]}:
                msg = f"The image is {picture.shape[:2]} and the model saw {axis.image_size}; give it in that size."
                raise ShapeError(msg)
    return list(map(_address, pictures))


def _middle(axis: Axis, sample: int) -> int:
    """Return a query that is worth a first look: the middle of the image or of the text."""
    if isinstance(axis, Tokens):
        plain = np.flatnonzero(~(axis.is_padding(sample) | axis.is_special(sample)))
        return int(plain[len(plain) // 2]) if len(plain) else 0
    if isinstance(axis, Patches):
        return axis.index(axis.grid[0] // 2, axis.grid[1] // 2)
    return 0


def _address(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * np.asarray(pixels)).astype(np.uint8)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _describe_axis(axis: Axis, samples: Sequence[int], windows: int) -> dict[str, Any]:
    found: dict[str, Any]
    match axis:
        case Patches(grid=grid, prefix=prefix, image_size=size):
            found = {"kind": "patches", "grid": grid, "prefix": prefix, "size": size, "places": None}
        case PlacedPatches(grid=grid, prefix=prefix, image_size=size):
            places = _places(axis, samples, windows)
            found = {"kind": "patches", "grid": grid, "prefix": prefix, "size": size, "places": places}
        case Named(names=names):
            found = {"kind": "names", "names": names}
        case Tokens():
            found = {"kind": "tokens", **_texts(axis, samples)}
        case _:
            found = {"kind": "count"}
    return {"length": len(axis), **found}


def _places(axis: PlacedPatches, samples: Sequence[int], windows: int) -> list[list[int]]:
    """Return where the patches of each window lie: of all samples the same, or one after the other."""
    if axis.windows in {1, windows}:
        return axis.places.tolist()  # type: ignore[no-any-return]  # a list of lists, which NumPy does not say
    rows = [sample * windows + window for sample in samples for window in range(windows)]
    return axis.places[rows].tolist()  # type: ignore[no-any-return]  # as above


def _texts(axis: Tokens, samples: Sequence[int]) -> dict[str, Any]:
    texts = [0] if len(axis.texts) == 1 else samples
    words = [axis.words(text) for text in texts]
    found: dict[str, Any] = {
        "texts": [axis.labels(text) for text in texts],
        "special": [axis.is_special(text).astype(int).tolist() for text in texts],
        "padding": [axis.is_padding(text).astype(int).tolist() for text in texts],
    }
    if any(len(word) > 1 for groups in words for word in groups):
        spellings = [[axis.spelling(word, text) for word in groups] for text, groups in zip(texts, words, strict=True)]
        found |= {"words": words, "spellings": spellings}
    return found
