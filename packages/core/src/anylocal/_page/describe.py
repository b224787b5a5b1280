"""The JSON of the interactive page: everything about its maps except their weights."""

from __future__ import annotations

import base64
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from anylocal._drawing.grid import row_names
from anylocal._drawing.image import as_seen, pixels_of
from anylocal._drawing.norms import DECADES, KNOTS
from anylocal._drawing.overlay import BACKGROUND, GAMMA, OPACITY, OVER_IMAGE, overlay_colormap
from anylocal._drawing.scale import CMAP, DIVERGING, EVEN, FEW_KEYS, FEW_VALUES, colormap_of, top_of
from anylocal._maps.combined import RowsBelow
from anylocal._maps.map import AttentionMap
from anylocal._maps.patches import Patches
from anylocal._maps.placed import PlacedPatches
from anylocal._maps.positions import Axis, Named
from anylocal._maps.tokens import Tokens
from anylocal._page.pictures import Album, describe_media, media_of
from anylocal._page.png import data_url
from anylocal.errors import OptionError, ShapeError

if TYPE_CHECKING:
    import numpy.typing as npt

    from anylocal._drawing.image import ImageLike, Statistics
    from anylocal._drawing.scale import Cmap
    from anylocal._page.payload import Layer

_STEPS: Final = np.linspace(0, 1, 256)


def describe(
    given: Sequence[AttentionMap],
    places: Sequence[int],
    layers: Sequence[AttentionMap],
    samples: Sequence[int],
    packed: Sequence[Layer],
    *,
    album: Album,
) -> dict[str, Any]:
    """Return what the script needs to know about the layers, at their places among those given, and their axes."""
    axes: dict[tuple[Axis, int], int] = {}
    shorts, _ = row_names(layers, float("inf"), 1)
    ambiguous = {name for name, count in Counter(layer.name for layer in given).items() if count > 1 or not name}
    by_sample = zip(*(pack.thumbs for pack in packed), strict=True)
    rows = []
    for at, layer, short, pack in zip(places, layers, shorts, packed, strict=True):
        queries, keys = (axes.setdefault((axis, layer.windows), len(axes)) for axis in (layer.queries, layer.keys))
        rows.append(
            {
                "name": layer.name,
                "short": short,
                # The index of the map in Python: layers that share a name are only reached by position.
                "ref": str(at) if layer.name in ambiguous else repr(layer.name),
                "shape": (len(samples), layer.windows, *layer.shape[1:]),
                "queries": queries,
                "keys": keys,
                "tops": pack.tops,
                "differences": pack.differences,
                "operands": pack.operands,
                "steps": layer.rows.ends if isinstance(layer.rows, RowsBelow) else None,
                "thumbs": [
                    {"shape": heads[0].weights.shape, "tops": [head.top for head in heads]} for heads in pack.thumbs
                ],
            }
        )
    return {
        "layers": rows,
        "tops": [top_of(*(head.counted for heads in thumbs for head in heads)) for thumbs in by_sample],
        "few": {"keys": FEW_KEYS, "values": FEW_VALUES},
        "even": EVEN,
        "decades": math.log10(DECADES),
        "knots": KNOTS,
        "axes": [describe_axis(axis, samples, windows, album) for axis, windows in axes],
        "samples": list(samples),
        "batch": layers[0].images,
        "start": {"layer": len(layers) - 1, "head": "mean", "query": _middle(layers[-1].queries, samples[0])},
    }


def tokens_of(given: object) -> Tokens:
    """Return the tokens that a user gave; refuse a tokenizer, and its ids."""
    if isinstance(given, Tokens):
        return given
    given = given.tolist() if isinstance(given, np.ndarray | torch.Tensor) else given
    remedy = "tokenizer.convert_ids_to_tokens(ids) converts ids, and a capture with tokenizer= has the tokens already."
    if not isinstance(given, Sequence):
        msg = f"tokens= takes the texts of the tokens and got {type(given).__name__}; {remedy}"
        raise OptionError(msg)
    single = any(isinstance(item, str) for item in given) or not all(isinstance(item, Sequence) for item in given)
    for token in given if single else itertools.chain.from_iterable(given):
        if not isinstance(token, str):
            msg = f"tokens= takes the texts of the tokens, and {token!r} is not a text; {remedy}"
            raise OptionError(msg)
    return Tokens(given)


def named(layers: Sequence[AttentionMap], samples: Sequence[int], tokens: Tokens) -> list[AttentionMap]:
    """Return the maps with the tokens on every axis of their length that is a text or only counts."""
    axes = dict.fromkeys(axis for layer in layers for axis in (layer.queries, layer.keys) if _is_open(axis))
    if not axes:
        msg = f"tokens= was given, but the positions of {layers[0]!r} are not tokens of a text; leave tokens= out."
        raise OptionError(msg)
    if all(len(axis) != len(tokens) for axis in axes):
        lengths = ", ".join(map(str, sorted({len(axis) for axis in axes})))
        msg = f"tokens= has {len(tokens)} tokens and the maps have {lengths} positions; give a text for each position."
        raise ShapeError(msg)
    count, batch = len(tokens.texts), layers[0].images
    if count not in {1, batch}:
        msg = f"tokens= has {count} texts and the maps have a batch of {batch}; give one text for each sample."
        raise ShapeError(msg)
    labels = {axis: _labelled(axis, tokens, samples) for axis in axes if len(axis) == len(tokens)}
    return [
        layer.labelled(queries=labels.get(layer.queries, layer.queries), keys=labels.get(layer.keys, layer.keys))
        for layer in layers
    ]


def _is_open(axis: Axis) -> bool:
    """Return whether a user may name the positions; names and places are known from the model."""
    return type(axis) is Axis or isinstance(axis, Tokens)


def _labelled(axis: Axis, tokens: Tokens, samples: Sequence[int]) -> Tokens:
    """Return the tokens, completed by what only the axis knows besides the texts."""
    if not isinstance(axis, Tokens):
        return tokens
    several = len(axis.texts) > 1
    if several and len(tokens.texts) == 1 and len({axis.texts[sample] for sample in samples}) > 1:
        msg = (
            f"tokens= has one text and the {len(samples)} samples of the page have different ones; give one text for"
            " each sample of the batch, or choose one sample by samples=."
        )
        raise ShapeError(msg)
    count = max(len(axis.texts), len(tokens.texts))
    given, known = (each if len(each.texts) == count else each.take([0] * count) for each in (tokens, axis))
    # The known spellings belong to the replaced texts; which tokens make up a word stays valid.
    split = given.split if given.split["words"] else {"words": known.split["words"]}
    return Tokens(
        given.texts,
        padding=_flags(given, known, lambda side, text: side.is_padding(text).tolist()),
        special=_flags(given, known, lambda side, text: side.is_special(text).tolist()),
        segments=_flags(given, known, Tokens.segments),
        start=given.start or known.start,
        media=given.media or known.media,
        **split,
    )


def _flags(given: Tokens, known: Tokens, of: Callable[[Tokens, int], list[Any]]) -> list[list[Any]]:
    """Return a property of each token, from the given tokens if they have it, else from the known ones."""
    own, before = ([of(side, text) for text in range(len(side.texts))] for side in (given, known))
    # Not by truth: 0 is the index of a sentence.
    return own if any(item is not None and item is not False for row in own for item in row) else before


def colours_of(cmap: Cmap | None) -> dict[str, Any]:
    """Return the colours of matrices and over images, as base64 of red, green, blue and opacity bytes."""
    tables = {
        "map": colormap_of(CMAP if cmap is None else cmap),
        "image": overlay_colormap(OVER_IMAGE if cmap is None else cmap),
    }
    found = {name: _bytes_of(table(_STEPS)) for name, table in tables.items()}
    return found | {"background": round(255 * float(BACKGROUND))}


def difference_colours() -> dict[str, str]:
    """Return the colours of differences; over images, nothing covers the image where there is none."""
    colours = np.asarray(colormap_of(DIVERGING)(_STEPS))
    over = colours.copy()
    over[:, 3] *= OPACITY * np.abs(2 * _STEPS - 1) ** GAMMA
    return {"difference": _bytes_of(colours), "differenceImage": _bytes_of(over)}


def _bytes_of(colours: npt.ArrayLike) -> str:
    made = (255 * np.asarray(colours)).astype(np.uint8)
    return base64.b64encode(made.tobytes()).decode("ascii")


def sources_of(
    images: ImageLike | Sequence[ImageLike],
    layers: Sequence[AttentionMap],
    samples: Sequence[int],
    mean: Statistics,
    std: Statistics,
) -> list[str]:
    """Return the image of each sample as the data URL of a PNG."""
    sides = [axis for layer in layers for axis in (layer.queries, layer.keys)]
    patches = [axis for axis in sides if isinstance(axis, Patches | PlacedPatches)]
    if not patches:
        msg = f"images= was given, but the positions of {layers[0]!r} are not patches; leave images= out."
        raise OptionError(msg)
    batch = layers[0].images
    each: Sequence[ImageLike] = images if isinstance(images, list | tuple) else [images]
    if len(each) not in {1, batch}:
        msg = f"images= has {len(each)} images and the maps have {batch}; give one for each sample."
        raise ShapeError(msg)
    chosen = [(each[sample % len(each)], sample) for sample in samples]
    pictures = [pixels_of(image, sample=sample, batch=batch, mean=mean, std=std) for image, sample in chosen]
    padded = [as_seen(picture, patches) for picture in pictures]
    for picture, whole in zip(pictures, padded, strict=True):
        for axis in patches:
            if axis.image_size not in {None, whole.shape[:2]}:
                msg = f"The image is {picture.shape[:2]} and the model saw {axis.image_size}; give it in that size."
                raise ShapeError(msg)
    return list(map(data_url, padded))


def _middle(axis: Axis, sample: int) -> int:
    """Return the query to start with: the middle of the image or of the text."""
    if isinstance(axis, Tokens):
        plain = np.flatnonzero(~(axis.is_padding(sample) | axis.is_special(sample)))
        places = [place for item in media_of(axis, sample) for place in item.positions]
        words = plain[~np.isin(plain, places)]
        # What is said of an image comes after it.
        plain = next((each for each in (words[words > max(places, default=-1)], words) if len(each)), plain)
        return int(plain[len(plain) // 2]) if len(plain) else 0
    if isinstance(axis, Patches):
        return axis.index(axis.grid[0] // 2, axis.grid[1] // 2)
    return 0


def describe_axis(axis: Axis, samples: Sequence[int], windows: int, album: Album) -> dict[str, Any]:
    found: dict[str, Any]
    match axis:
        case Patches() | PlacedPatches():
            places = _places(axis, samples, windows) if isinstance(axis, PlacedPatches) else None
            image = {"grid": axis.grid, "prefix": axis.prefix, "size": axis.image_size}
            found = {"kind": "patches", **image, "places": places}
        case Named(names=names):
            found = {"kind": "names", "names": names}
        case Tokens():
            found = {"kind": "tokens", **_texts(axis, samples, album)}
        case _:
            found = {"kind": "count"}
    return {"length": len(axis), **found}


def _places(axis: PlacedPatches, samples: Sequence[int], windows: int) -> list[list[int]]:
    """Return the places of the patches of each window, once if all samples share them, else for each sample."""
    if axis.windows in {1, windows}:
        return axis.places.tolist()  # type: ignore[no-any-return]  # a list of lists, which NumPy does not declare
    rows = [sample * windows + window for sample in samples for window in range(windows)]
    return axis.places[rows].tolist()  # type: ignore[no-any-return]  # as above


# A text without spaces may be one token; a browser lays out a million letters for seconds.
_LONGEST: Final = 200


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _texts(axis: Tokens, samples: Sequence[int], album: Album) -> dict[str, Any]:
    texts = [0] if len(axis.texts) == 1 else samples
    words = [axis.words(text) for text in texts]
    found: dict[str, Any] = {
        "texts": [[_shortened(axis.display(position, text)) for position in range(len(axis))] for text in texts],
        "special": [axis.is_special(text).astype(int).tolist() for text in texts],
        "padding": [axis.is_padding(text).astype(int).tolist() for text in texts],
    }
    if any(len(word) > 1 for groups in words for word in groups):
        spellings = [[axis.spelling(word, text) for word in groups] for text, groups in zip(texts, words, strict=True)]
        found |= {"words": words, "spellings": spellings}
    # Of each sample, even where all share a text: their images may differ.
    media = [describe_media(axis, sample, album) for sample in samples]
    return found | {"media": media} if any(media) else found
