"""The layers that a function of several maps was given, and whether they belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from anylocal._maps.map import AttentionMap
from anylocal._maps.positions import Axis
from anylocal._maps.tokens import Tokens
from anylocal.errors import ChoiceError, OptionError, ShapeError, StateError, UnsupportedError


def maps_of(given: object, what: str) -> list[AttentionMap]:
    """Return the maps of several layers or a single one; refuse anything else, and maps grouped by forward pass."""
    if isinstance(given, AttentionMap):
        return [given]
    if hasattr(given, "maps"):
        msg = f"{what} takes maps and got {type(given).__name__}; give it the maps of that, which are its .maps."
        raise OptionError(msg)
    found = []
    for item in given if isinstance(given, Iterable) and not isinstance(given, str | torch.Tensor) else [given]:
        if isinstance(item, Sequence) and any(isinstance(layer, AttentionMap) for layer in item):
            msg = f"{what} takes maps and got several {type(item).__name__}; give one of them."
            raise ChoiceError(msg)
        if not isinstance(item, AttentionMap):
            msg = f"{what} takes maps and got {type(item).__name__}; make maps first, by AttentionMap.from_weights."
            raise OptionError(msg)
        found.append(item)
    return found


def check_forward(layers: Sequence[AttentionMap], what: str) -> None:
    """Raise if there are no layers, or they belong to several forward passes."""
    if not layers:
        msg = f"{what} needs at least one map and got none; run the model inside the capture first."
        raise StateError(msg)
    if len({(layer.rank, layer.forward) for layer in layers}) > 1:
        steps = any(isinstance(layer.queries, Tokens) and layer.queries.start for layer in layers)
        joined = ", or join the steps of a generation by maps.generation()" if steps else ""
        msg = f"{what} takes one forward pass and the maps belong to several; choose one of maps.forwards{joined}."
        raise ChoiceError(msg)


def check_chain(layers: Sequence[AttentionMap], what: str) -> None:
    """Raise if attention cannot be followed from layer to layer."""
    check_forward(layers, what)
    last = layers[-1]
    for layer in layers:
        if layer.windows != 1:
            msg = f"{layer!r} attends within windows, and {what} needs the same positions in every layer."
            raise UnsupportedError(msg)
        known = type(layer.queries) is not Axis and type(layer.keys) is not Axis
        if layer.shape[2] != layer.shape[3] or (known and layer.queries != layer.keys):
            msg = f"{layer!r} is not self-attention, which {what} needs; leave the layer out."
            raise ShapeError(msg)
        if (layer.shape[0], layer.shape[2]) != (last.shape[0], last.shape[2]):
            msg = f"{layer!r} and {last!r} differ in batch or length; choose layers that {what} can multiply."
            raise ShapeError(msg)
