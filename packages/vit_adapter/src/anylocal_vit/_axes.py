"""The axes of a map: patches of the image that the model was given, whole or in windows, and prefix tokens."""

from __future__ import annotations

import itertools
import math
import operator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch

from anylocal.adapter import MapAxes, module_names
from anylocal.attention import Axis, Named, Patches, PlacedPatches, VideoPatches
from anylocal_vit._family import Block, Grid, Partition, Windows, grid_of, pair
from anylocal_vit._models import is_model, is_of_timm, is_of_torch, patch_sizes, prefix_names, volume_patch
from anylocal_vit.families import FAMILIES, entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anylocal import Call
    from anylocal.adapter import InputContext

SIZES: Final = (("q_size", "k_size"), ("feat_size",), ("size",), ("h", "w"), ("H", "W"))
"""Locals of attention functions that hold the rows and columns of queries and keys, the most reliable first."""

INPUTS: Final = frozenset(name for family in FAMILIES for name in family.inputs)
"""Further inputs of models that say where patches lie."""

_MOST_CHANNELS: Final = 64
"""An input with more channels is features, not an image."""

# Blocks in a list of this name do not change the number of patches.
_ISOTROPIC: Final = "blocks"


class LayerAxes:
    """A layer, the modules around it, and the image that the model was given."""

    def __init__(self, call: Call, shape: tuple[int, ...], context: InputContext) -> None:
        self.name, self.module, self.values, self.shape = call.name, cast("Any", call.module), call.values, shape
        self.seen = context.seen
        self.around = _around(call.name, context)
        models = ((name, module) for name, module in self.around if is_model(module))
        root: tuple[str, Any] = next(models, ("", context.model))
        self.root_name, self.root = root
        self.is_of_timm = is_of_timm(self.root) or (is_of_torch(self.root) and is_of_timm(self.module))
        self.image = self._image()
        self.volumes = _volumes(context)
        self.prefix = prefix_names(self.root)

    def axes(self) -> MapAxes:
        """Return the axes of the map, and the number of windows of each image."""
        batch, _, queries, keys = self.shape
        partition = self._partition()
        if partition is not None and partition.keys.shape[1] == keys and batch % len(partition.keys) == 0:
            return self._placed(partition)
        volume = self._volume()
        if volume is not None:
            return volume
        images = batch if self.image is None or self._may_read_words() else self.image[0]
        windows = batch // images if batch % images == 0 else 1
        if windows > 1:
            return MapAxes(None, None, windows)
        given = self._given()
        if given is not None:
            return MapAxes(given, given)
        key_axis = self._named_keys() or self._axis(keys, of_queries=False)
        if queries == 1 < keys:
            return MapAxes(self._only_query(key_axis), key_axis)
        return MapAxes(self._axis(queries, of_queries=True), key_axis)

    def _volume(self) -> MapAxes | None:
        """Return the patches of a video or a volume, None unless one module of the innermost such model cuts them."""
        inside = (
            (outer, module, [name for name in self.volumes if _is_within(name, outer)]) for outer, module in self.around
        )
        owner, cuts = next(((module, names) for _, module, names in inside if names), (None, []))
        given = self.seen.get(cuts[0], {}).values() if len(cuts) == 1 else ()
        shape = next((value for value in given if isinstance(value, tuple) and len(value) == 5), None)  # noqa: PLR2004  # (batch, channel, frame, row, column)
        # Where frames attend apart, the batch is another.
        if shape is None or shape[0] != self.shape[0]:
            return None
        frames, rows, columns = map(operator.floordiv, shape[2:], self.volumes[cuts[0]])
        prefixes = dict.fromkeys((prefix_names(owner), ())) if frames * rows * columns else ()
        axes = [VideoPatches((frames, rows, columns), prefix, image_size=shape[3:]) for prefix in prefixes]
        queries, keys = (next((axis for axis in axes if len(axis) == length), None) for length in self.shape[2:])
        return None if queries is None and keys is None else MapAxes(queries, keys)

    def _may_read_words(self) -> bool:
        """Return whether the layer may be one over words, whose batch need not be that of the images."""
        if self.is_of_timm:
            return False
        within = (module for name, module in self.around[1:] if name.startswith(self.root_name))
        return any(isinstance(part, torch.nn.Embedding) for module in within for part in module.children())

    def _image(self) -> tuple[int, Grid] | None:
        """Return the number of images, and their height and width."""
        for name, module in self.around:
            if name and not is_model(module):
                continue
            for inner in (f"{name}.patch_embed" if name else "patch_embed", name):
                for value in self.seen.get(inner, {}).values():
                    if isinstance(value, tuple) and len(value) == 4 and value[1] <= _MOST_CHANNELS:  # noqa: PLR2004  # (batch, channel, row, column)
                        return value[0], (value[2], value[3])
        # Where the input was not observed, as in forks of old source: the size that the model was made for.
        size = getattr(getattr(self.root, "patch_embed", None), "img_size", None)
        return None if size is None else (self.shape[0], pair(size))

    @cached_property
    def size(self) -> dict[str, Any]:
        """The size of the image as axes take it, with the padding that the model adds to complete its patches."""
        if self.image is None:
            return {}
        given, embedding = self.image[1], self._embedding()
        if not getattr(embedding, "dynamic_img_pad", False) or not hasattr(embedding, "dynamic_feat_size"):
            return {"image_size": given}
        padded = tuple(map(operator.mul, embedding.dynamic_feat_size(given), embedding.feat_ratio(as_scalar=False)))
        return {"image_size": padded, "image_padding": tuple(map(operator.sub, padded, given))}

    def _embedding(self) -> Any:
        """Return the model's patch embedding, None where no attribute of timm's names holds one."""
        return getattr(self.root, "patch_embed", getattr(self.root, "embeds", None))

    def _partition(self) -> Partition | None:
        for name, module in self.around:
            shape = next((value for value in self.seen.get(name, {}).values() if isinstance(value, tuple)), None)
            within = self.name[len(name) :].lstrip(".")
            for windows in windows_of(module):
                partition = windows.of(Block(module, shape, within, self.values, self.shape, self.root, self.image))
                if partition is not None:
                    return partition
        return None

    def _placed(self, partition: Partition) -> MapAxes:
        keys = PlacedPatches(partition.grid, partition.keys, **self.size)
        queries: Axis | None = keys
        if partition.queries is not None and partition.query_grid is not None:
            fits = partition.queries.shape == (len(partition.keys), self.shape[2])
            queries = PlacedPatches(partition.query_grid, partition.queries, **self.size) if fits else None
        elif self.shape[2] != len(keys):
            queries = None
        # One window of all patches in row-major order is a plain grid.
        if len(partition.keys) == 1 and np.array_equal(partition.keys[0], np.arange(math.prod(partition.grid))):
            grid = Patches(partition.grid, prefix=(), **self.size)
            return MapAxes(grid if queries is keys else self._axis(self.shape[2], of_queries=True), grid)
        return MapAxes(queries, keys, len(partition.keys))

    def _given(self) -> PlacedPatches | None:
        """Return the positions that the model was given with its patches."""
        rules = [family.positions for family in FAMILIES if family.positions is not None]
        found = (rule(self.seen.get(name, {}), self.prefix) for name, _ in self.around for rule in rules)
        given = next((axis for axis in found if axis is not None), None)
        return given if given is not None and self.shape[2:] == (len(given), len(given)) else None

    def _named_keys(self) -> Axis | None:
        rules = entries("keys", type(self.module).__name__)
        grid = self._grid(self.shape[2], of_queries=True) if rules else None
        return None if grid is None else rules[0](self.module, grid, self.shape[3])

    def _axis(self, length: int, *, of_queries: bool) -> Axis:
        """Return the patches, with prefix tokens if the length allows for them, or an axis that only counts."""
        pools = "AttentionPool2d" in type(self.module).__name__
        # Such a pool adds a token of its own.
        for prefix in dict.fromkeys((self.prefix, ("cls",), ("mean",), ()) if pools else (self.prefix, ())):
            grid = self._grid(length - len(prefix), of_queries=of_queries)
            if grid is not None:
                return Patches(grid=grid, prefix=prefix, **self.size)
        return Axis(length)

    def _grid(self, patches: int, *, of_queries: bool) -> Grid | None:
        """Return the rows and columns of this many patches, None where they are no known grid."""
        if patches < 1:
            return None
        own, embedded = self._own_grid(patches, of_queries=of_queries), list(self._embedded())
        found = own or next((grid for grid in embedded if math.prod(grid) == patches), None)
        # Outside timm they may be words, or learned positions, and their number a coincidence.
        if found is not None or self.image is None or not self.is_of_timm:
            return found
        within = self.name[len(self.root_name) :].lstrip(".")
        # Where patches are dropped or merged, the number of those that remain may be that of a smaller grid.
        return None if embedded and within.startswith(_ISOTROPIC) else grid_of(patches, self.image[1])

    def _own_grid(self, patches: int, *, of_queries: bool) -> Grid | None:
        """Return the rows and columns that the layer's locals hold, None where they do not fit the number."""
        own = _own_size(self.values, of_queries=of_queries)
        if own is None:
            return None
        if self.is_of_timm:
            return grid_of(patches, own)
        count = math.prod(own)
        if patches == count:
            return own
        # A layer that pools its keys holds the grid of its queries.
        if of_queries or self.shape[2] - count not in {0, len(self.prefix)}:
            return None
        strides = (n for n in range(2, 1 + min(own)) if own[0] % n == own[1] % n == 0)
        return next(((own[0] // n, own[1] // n) for n in strides if count == patches * n * n), None)

    def _embedded(self) -> Iterator[Grid]:
        """Yield the grids of the model's patch embeddings."""
        if self.image is None:
            return
        embedding, size = self._embedding(), self.image[1]
        several = isinstance(embedding, torch.nn.ModuleList)
        for each in embedding if several else [embedding]:
            if hasattr(each, "dynamic_feat_size"):
                yield pair(each.dynamic_feat_size(size))
            elif isinstance(each, torch.nn.Module) and getattr(each, "patch_size", None) is not None:
                height, width = pair(each.patch_size)
                own = getattr(each, "img_size", None) if several else None
                rows, columns = size if own is None else pair(own)
                yield rows // height, columns // width
        if not self.is_of_timm:
            for height, width in patch_sizes(self.root if embedding is None else embedding):
                yield size[0] // height, size[1] // width

    def _only_query(self, keys: Axis) -> Axis:
        name = type(self.module).__name__
        if "Pool" in name:
            return Named(("mean",) if "SimPool" in name else ("latent",))
        return Named(("cls",)) if isinstance(keys, Patches) and "cls" in keys.prefix else Axis(1)


def _is_within(name: str, outer: str) -> bool:
    return not outer or name.startswith(f"{outer}.")


def _volumes(context: InputContext) -> dict[str, tuple[int, int, int]]:
    """Return the sizes of patches into which modules cut videos or volumes, by the names of these modules."""
    if "volumes" not in context.memory:
        sizes = ((name, volume_patch(module)) for name, module in module_names(context.model))
        context.memory["volumes"] = {name: size for name, size in sizes if size is not None}
    found: dict[str, tuple[int, int, int]] = context.memory["volumes"]
    return found


def windows_of(module: torch.nn.Module) -> list[Windows]:
    """Return how a module may divide its input into windows."""
    found = entries("windows", type(module).__name__)
    return [windows for windows in found if not windows.having or hasattr(module, windows.having)]


def seen_shape(value: Any) -> Any:
    """Return what is kept of an input: the shape of an image, or the positions of patches."""
    if isinstance(value, dict):
        return {name: seen_shape(part) for name, part in value.items() if name in INPUTS}
    if not isinstance(value, torch.Tensor):
        return None
    return tuple(value.shape) if value.is_floating_point() else value.detach()


def _around(name: str, context: InputContext) -> list[tuple[str, torch.nn.Module]]:
    """Return a layer and the modules around it with their names, from the inside out."""
    # The names are those that users know, without wrappers such as a compiled module's. To list them takes longer than
    # to read a row of a small model's map, so a list is kept while it is true of this layer.
    found = _chain(name, context.memory.get("modules", {}))
    if found is None or not _is_nested(found):
        context.memory["modules"] = dict(module_names(context.model))
        found = _chain(name, context.memory["modules"])
    if found is None:
        raise KeyError(name)
    return found


def _chain(name: str, modules: Mapping[str, torch.nn.Module]) -> list[tuple[str, torch.nn.Module]] | None:
    parts = name.split(".") if name else []
    names = [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
    return [(each, modules[each]) for each in names] if modules.keys() >= set(names) else None


def _is_nested(chain: Sequence[tuple[str, torch.nn.Module]]) -> bool:
    """Return whether each module is now an attribute of the next one; not so if it is in a wrapper."""
    return all(
        getattr(outer, name.rpartition(".")[2], None) is module
        for (name, module), (_, outer) in itertools.pairwise(chain)
    )


def _own_size(values: Mapping[str, Any], *, of_queries: bool) -> Grid | None:
    """Return the rows and columns that locals of an attention function hold."""
    for names in SIZES:
        if not set(names) <= set(values):
            continue
        found = values[names[0 if of_queries else -1]] if "size" in names[0] else [values[name] for name in names]
        if isinstance(found, (tuple, list, torch.Size)) and len(found) == 2 and all(isinstance(n, int) for n in found):  # noqa: PLR2004  # rows and columns
            return pair(found)
    return None
