"""Two captures on one page: whether they can be compared, and what their positions are called together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anylocal._maps.positions import Axis
from anylocal._maps.tokens import Tokens
from anylocal._page.describe import describe, describe_axis, difference_colours
from anylocal._page.pictures import Album
from anylocal.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anylocal._maps.map import AttentionMap
    from anylocal._page.payload import Layer
    from anylocal._page.shown import Shown


def paired(first: Shown, other: Shown) -> list[Shown]:
    """Return two captures with the axes that they have together; refuse those that cannot be compared."""
    for one, two in zip(first.layers, other.layers, strict=True):
        if (one.shape, one.windows) != (two.shape, two.windows):
            msg = (
                f"explore compares maps of one shape; {one.name!r} of the first has {one.shape} and {two.name!r} of the"
                f" other {two.shape} (batch, head, query, key). Choose layers by layers=, or pad the inputs alike."
            )
            raise ShapeError(msg)
    axes = [
        (_together(one.queries, two.queries, one), _together(one.keys, two.keys, one))
        for one, two in zip(first.layers, other.layers, strict=True)
    ]
    return [
        replace(
            side,
            layers=[
                layer.labelled(queries=queries, keys=keys)
                for layer, (queries, keys) in zip(side.layers, axes, strict=True)
            ],
        )
        for side in (first, other)
    ]


def add_other(data: dict[str, Any], sides: Sequence[Shown], other: Shown, packed: Sequence[Layer]) -> None:
    """Add to the data of a page what it needs of the other capture; `sides` have the positions of each alone."""
    theirs = describe(other.given, other.places, other.layers, other.samples, packed, album=Album())
    own = [{"queries": layer["queries"], "keys": layer["keys"]} for layer in data["layers"]]
    data["others"] = [layer | axes for layer, axes in zip(theirs["layers"], own, strict=True)]
    data["otherTops"], data["otherImages"] = theirs["tops"], other.sources
    albums = [Album(side.pictures, data["pictures"]) for side in sides]
    data["sides"] = [
        [_places(data, side, layer, album) for layer in side.layers] for side, album in zip(sides, albums, strict=True)
    ]
    data["error"] = max(data["error"], *(layer.error for layer in packed))
    data["start"]["side"] = "difference"
    data["colours"] |= difference_colours()


def _places(data: dict[str, Any], side: Shown, layer: AttentionMap, album: Album) -> dict[str, int]:
    """Return where the axes of a layer stand among those of the page."""
    found = {}
    for name, axis in (("queries", layer.queries), ("keys", layer.keys)):
        described = describe_axis(axis, side.samples, layer.windows, album)
        if described not in data["axes"]:
            data["axes"].append(described)
        found[name] = data["axes"].index(described)
    return found


def _together(one: Axis, other: Axis, layer: AttentionMap) -> Axis:
    """Return the positions of two axes of one length."""
    if one == other or type(other) is Axis:
        return one
    if type(one) is Axis:
        return other
    if isinstance(one, Tokens) and isinstance(other, Tokens):
        return _texts(one, other)
    msg = f"explore compares the same positions; in {layer!r} the first has {one!r}, and the other {other!r}."
    raise ShapeError(msg)


def _texts(one: Tokens, other: Tokens) -> Tokens:
    """Return two texts as one: tokens that differ have both names; padding is what is padding in both."""
    count = max(len(one.texts), len(other.texts))
    rows = [[side.take([row % len(side.texts)]) for side in (one, other)] for row in range(count)]
    names = [
        [
            first.display(at)
            if first.display(at) == second.display(at)
            else f"{first.display(at)} / {second.display(at)}"
            for at in range(len(one))
        ]
        for first, second in rows
    ]
    same = one.split if one.split == other.split and len(one.texts) == len(other.texts) else {"words": None}
    return Tokens(
        names,
        padding=[np.logical_and(*(side.is_padding() for side in row)).tolist() for row in rows],
        special=[np.logical_or(*(side.is_special() for side in row)).tolist() for row in rows],
        start=one.start,
        words=same["words"],
        media=one.media if one.media == other.media and len(one.texts) == count else (),
    )
