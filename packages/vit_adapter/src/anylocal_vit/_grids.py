"""What the positions of a map are: patches of the image that was given, whole or in windows, and prefix tokens."""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from anylocal.adapter import MapAxes, module_names
from anylocal.attention import Axis, Named, Patches, PlacedPatches
from anylocal_vit._places import Block, Cut, Grid, cutting, pair, tiles, unrolled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Locals of attention functions that hold the rows and columns of what they relate, the most telling first.
SIZES: Final = (("q_size", "k_size"), ("feat_size",), ("size",), ("h", "w"), ("H", "W"))
HINTS: Final = ("q_size", "k_size", "feat_size", "size", "h", "w", "H", "W", "Ho", "Wo", "lambda_full")

# Modules that keep a list of blocks under this name leave the number of patches as it is from block to block.
_ISOTROPIC: Final = "blocks"

# Along a list: what it pools lies in one row, or on both sides of a rim.
_POOL: Final = torch.nn.AvgPool1d


class Layer(NamedTuple):
    """A layer whose map is asked for its axes.

    Attributes
    ----------
    name : str
        Of its module.
    module : torch.nn.Module
        The module.
    values : mapping of str to object
        Locals of its attention function.
    shape : tuple of int
        Of its map: (batch, head, query, key).
    """

    name: str
    module: Any
    values: Mapping[str, Any]
    shape: tuple[int, ...]


class Surroundings:
    """A layer in its model, and what is known of the image."""

    def __init__(self, layer: Layer, model: torch.nn.Module, seen: Mapping[str, Mapping[str, Any]]) -> None:
        self.layer = layer
        self.seen = seen
        self.around = list(_around(layer.name, model))
        models = ((name, module) for name, module in self.around if is_model(module))
        root: tuple[str, Any] = next(models, ("", model))
        self.root_name, self.root = root
        self.is_timms = is_of_timm(self.root) or (is_of_torch(self.root) and is_of_timm(layer.module))
        self.image = self._image()
        self.prefix = prefix_names(self.root)

    def axes(self) -> MapAxes:
        """Return what the positions of the map are."""
        cut = self._cut()
        batch, _, queries, keys = self.layer.shape
        if cut is not None and cut.keys.shape[1] == keys and batch % len(cut.keys) == 0:
            return self._placed(cut)
        images = batch if self.image is None or self._takes_words() else self.image[0]
        windows = batch // images if batch % images == 0 else 1
        if windows > 1:
            return MapAxes(None, None, windows)
        scattered = self._scattered()
        if scattered is not None:
            return MapAxes(scattered, scattered)
        asked = self._runs(queries, keys) or self._axis(keys, asking=False)
        if queries == 1 < keys:
            return MapAxes(self._alone(asked), asked)
        return MapAxes(self._axis(queries, asking=True), asked)

    def _takes_words(self) -> bool:
        """Say whether the layer may be one over words, of which there can be other batches than of images."""
        if self.is_timms:
            return False
        within = (module for name, module in self.around[1:] if name.startswith(self.root_name))
        return any(isinstance(part, torch.nn.Embedding) for module in within for part in module.children())

    def _runs(self, queries: int, keys: int) -> Named | None:
        """Return the keys of a layer that pools its list of patches, whatever their rows: runs, and no grid."""
        grid = self._grid(queries, asking=True) if isinstance(getattr(self.layer.module, "sr", None), _POOL) else None
        if grid is None or queries % keys:
            return None
        last = queries // keys - 1
        ends = ((start, start + last) for start in range(0, queries, last + 1))
        return Named(tuple("–".join(str(divmod(end, grid[1])) for end in run) for run in ends))

    def _image(self) -> tuple[int, Grid] | None:
        """Return how many images there were, and how high and wide."""
        outermost = len(self.around) - 1
        for place, (name, module) in enumerate(self.around):
            if place < outermost and not is_model(module):
                continue
            for inner in (f"{name}.patch_embed" if name else "patch_embed", name):
                for value in self.seen.get(inner, {}).values():
                    if isinstance(value, tuple) and len(value) == 4 and value[1] <= _MOST_CHANNELS:  # noqa: PLR2004  # (batch, channel, row, column)
                        return value[0], (value[2], value[3])
        size = getattr(getattr(self.root, "patch_embed", None), "img_size", None)
        # Without the actual size, which forks of old source do not tell, the one that the model was made for.
        return None if size is None else (self.layer.shape[0], pair(size))

    @property
    def size(self) -> dict[str, Any]:
        """What axes are told of the image: its size, with what the model adds to make whole patches of it."""
        if self.image is None:
            return {}
        given, embedding = self.image[1], self._embedding()
        if not getattr(embedding, "dynamic_img_pad", False) or not hasattr(embedding, "dynamic_feat_size"):
            return {"image_size": given}
        whole = tuple(map(operator.mul, embedding.dynamic_feat_size(given), embedding.feat_ratio(as_scalar=False)))
        return {"image_size": whole, "image_padding": tuple(map(operator.sub, whole, given))}

    def _embedding(self) -> Any:
        """Return what makes patches of the image in the model, None where timm has no name for it."""
        return getattr(self.root, "patch_embed", getattr(self.root, "embeds", None))

    def _cut(self) -> Cut | None:
        lengths = self.layer.shape[2], self.layer.shape[3]
        if hasattr(self.root, "unroll"):
            units = getattr(self.layer.module, "use_mask_unit_attn", False)
            return unrolled(self.root, math.prod(self.root.mask_spatial_shape) if units else 1, lengths)
        if self.layer.name.endswith("attn_in") and self.image is not None:
            return self._pixels(lengths)
        for name, module in self.around:
            size = next((value for value in self.seen.get(name, {}).values() if isinstance(value, tuple)), None)
            within = self.layer.name[len(name) :].lstrip(".")
            rule = cutting(module)
            cut = None if rule is None else rule(Block(module, size, self.layer.values, within, lengths))
            if cut is not None:
                return cut
        return None

    def _pixels(self, lengths: tuple[int, int]) -> Cut | None:
        """Return the pixels of TNT, each patch of which is a window."""
        assert self.image is not None
        patches = grid_of(self.layer.shape[0] // self.image[0], self.image[1])
        side = math.isqrt(lengths[1])
        if patches is None or side * side != lengths[1]:
            return None
        grid = patches[0] * side, patches[1] * side
        return Cut(grid, tiles(grid, (side, side)))

    def _placed(self, cut: Cut) -> MapAxes:
        keys = PlacedPatches(cut.grid, cut.keys, **self.size)
        queries: Axis | None = keys
        if cut.queries is not None and cut.query_grid is not None:
            fits = cut.queries.shape == (len(cut.keys), self.layer.shape[2])
            queries = PlacedPatches(cut.query_grid, cut.queries, **self.size) if fits else None
        elif self.layer.shape[2] != len(keys):
            queries = None
        # One window that holds all patches row by row is the plain thing.
        if len(cut.keys) == 1 and np.array_equal(cut.keys[0], np.arange(math.prod(cut.grid))):
            asked = Patches(cut.grid, prefix=(), **self.size)
            asking = self._axis(self.layer.shape[2], asking=True) if queries is not keys else asked
            return MapAxes(asking, asked)
        return MapAxes(queries, keys, len(cut.keys))

    def _axis(self, length: int, *, asking: bool) -> Axis:
        """Return the patches, with the prefix tokens that there is room for, or positions that are only counted."""
        for prefix in dict.fromkeys((self.prefix, ("cls",), ("mean",), ()) if self._pools() else (self.prefix, ())):
            grid = self._grid(length - len(prefix), asking=asking)
            if grid is not None:
                return Patches(grid=grid, prefix=prefix, **self.size)
        return Axis(length)

    def _pools(self) -> bool:
        """Say whether the layer is a pool that puts a token of its own in front of the patches."""
        return "AttentionPool2d" in type(self.layer.module).__name__

    def _grid(self, patches: int, *, asking: bool) -> Grid | None:
        """Return the rows and columns of a number of patches, None where they are not that many."""
        if patches < 1:
            return None
        told, embedded = self._told(patches, asking=asking), list(self._embedded())
        if told is not None:
            return told
        if patches in [math.prod(grid) for grid in embedded]:
            return next(grid for grid in embedded if math.prod(grid) == patches)
        within = self.layer.name[len(self.root_name) :].lstrip(".")
        # Where patches are left out or merged, those that remain may be as many as those of a smaller grid.
        if self.image is None or (embedded and within.startswith(_ISOTROPIC)):
            return None
        # Elsewhere than in timm they may be words, or whatever was learned, and as many by chance.
        return grid_of(patches, self.image[1]) if self.is_timms else None

    def _told(self, patches: int, *, asking: bool) -> Grid | None:
        """Return the rows and columns that the layer's own locals tell, None where the patches are not so many."""
        own = _own_size(self.layer.values, asking=asking)
        if own is None:
            return None
        if self.is_timms:
            return grid_of(patches, own)
        count = math.prod(own)
        if patches == count:
            return own
        # What pools its keys is told the grid of its queries.
        if asking or self.layer.shape[2] - count not in {0, len(self.prefix)}:
            return None
        strides = (n for n in range(2, 1 + min(own)) if own[0] % n == own[1] % n == 0)
        return next(((own[0] // n, own[1] // n) for n in strides if count == patches * n * n), None)

    def _embedded(self) -> Iterator[Grid]:
        """Give the grids of the model's patch embeddings."""
        if self.image is None:
            return
        embedding = self._embedding()
        all_: list[Any] = [*embedding] if isinstance(embedding, torch.nn.ModuleList) else [embedding]
        for each in all_:
            if hasattr(each, "dynamic_feat_size"):
                rows, columns = each.dynamic_feat_size(self.image[1])
                yield int(rows), int(columns)
            elif isinstance(each, torch.nn.Module) and getattr(each, "patch_size", None) is not None:
                height, width = pair(each.patch_size)
                size = getattr(each, "img_size", None) if isinstance(embedding, torch.nn.ModuleList) else None
                image = pair(size) if size is not None else self.image[1]
                yield image[0] // height, image[1] // width
        if not self.is_timms:
            for height, width in patch_sizes(self.root if embedding is None else embedding):
                yield self.image[1][0] // height, self.image[1][1] // width

    def _scattered(self) -> PlacedPatches | None:
        """Return where the patches of a batch of images of several sizes lie."""
        given = next((v for n, _ in self.around for v in _naflex(self.seen.get(n, {}))), None)
        if given is None:
            return None
        coordinates, valid = given
        length = len(self.prefix) + coordinates.shape[1]
        if self.layer.shape[2:] != (length, length):
            return None
        down, across = (int(size) + 1 for size in coordinates.amax((0, 1)))
        places = coordinates[..., 0] * across + coordinates[..., 1]
        # Padding is told by a mask, or by coordinates that no patch has.
        nowhere = (coordinates < 0).any(-1) if valid is None else ~valid.bool()
        places = places.masked_fill(nowhere, -1)
        return PlacedPatches((down, across), places, prefix=self.prefix)

    def _alone(self, keys: Axis) -> Axis:
        """Return what the only query is."""
        if "Pool" in type(self.layer.module).__name__:
            return Named(("mean",) if "SimPool" in type(self.layer.module).__name__ else ("latent",))
        return Named(("cls",)) if isinstance(keys, Patches) and "cls" in keys.prefix else Axis(1)


_MOST_CHANNELS: Final = 64
"""More than these are no colours, but features."""


_MOST_COLOURS: Final = 4
"""What a convolution of more sees is features, or a volume."""

_REARRANGED: Final = re.compile(r"\(h (\w+)\) \(w (\w+)\)")
"""What cuts an image up in a pattern of einops: by how many rows and columns of pixels."""

_MARKS: Final = ("patch_embed", "embeds", "pretrained_cfg", "default_cfg")


def is_model(module: torch.nn.Module) -> bool:
    """Say whether a module takes an image: timm's models do, and what embeds patches."""
    # To ask a module itself takes long for what it does not have.
    own, cls = vars(module), type(module)
    # Scripted modules, and so traced ones, keep their parts elsewhere.
    parts = own.get("_modules", {})
    if any(name in own or name in parts or hasattr(cls, name) for name in _MARKS):
        return True
    return not is_of_torch(module) and not is_of_timm(module) and any(True for _ in patch_sizes(module))


def is_of_timm(module: torch.nn.Module) -> bool:
    """Say whether a module is of a class of timm's, or a model that timm, or a fork of it, has built."""
    own, cls = vars(module), type(module)
    built = any(name in own or hasattr(cls, name) for name in ("pretrained_cfg", "default_cfg"))
    return built or any(base.__module__.startswith("timm.") for base in cls.__mro__)


def is_of_torch(module: torch.nn.Module) -> bool:
    """Say whether a module is one of torch's own, such as a list of layers."""
    return type(module).__module__.startswith("torch.")


def patch_sizes(module: torch.nn.Module) -> Iterator[Grid]:
    """Give the sizes of the patches into which a module, one of its parts, or one in a list of theirs cuts an image.

    Examples
    --------
    >>> list(patch_sizes(torch.nn.Sequential(torch.nn.Conv2d(3, 24, 16, stride=16))))
    [(16, 16)]
    """
    lists = [part for part in module.children() if isinstance(part, torch.nn.Sequential)]
    for part in (module, *module.children(), *(inner for each in lists for inner in each)):
        if isinstance(part, torch.nn.Conv2d):
            if part.kernel_size == part.stride != (1, 1) and part.in_channels <= _MOST_COLOURS:
                yield pair(part.kernel_size)
        # As a layer, einops' rearrange keeps its pattern.
        elif isinstance(lengths := getattr(part, "axes_lengths", None), dict):
            found = _REARRANGED.search(str(getattr(part, "pattern", "")))
            if found is not None and set(found.groups()) <= set(lengths):
                yield pair([lengths[name] for name in found.groups()])


def _around(name: str, model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Give a layer and the modules around it, from the inside to the outside, with their names."""
    # By the names that users know: those of what compiles or wraps a model are not among them.
    modules = dict(module_names(model))
    parts = name.split(".") if name else []
    for length in range(len(parts), -1, -1):
        outer = ".".join(parts[:length])
        yield outer, modules[outer]


def grid_of(patches: int, size: Grid) -> Grid | None:
    """Return the rows and columns that so many patches have in an image, or a map of features, of this size.

    Examples
    --------
    >>> grid_of(49, (224, 224)), grid_of(12, (96, 128)), grid_of(50, (224, 224))
    ((7, 7), (3, 4), None)
    """
    height, width = size
    # A stride that divides nothing evenly is rounded up by some models, down by others, and others leave the rim out.
    whole = ((-(-height // stride), -(-width // stride)) for stride in range(1, max(size) + 1))
    found = next((grid for grid in whole if math.prod(grid) == patches), None)
    pairs = ((rows, patches // rows) for rows in range(1, patches + 1) if patches % rows == 0)
    return found or next((grid for grid in pairs if abs(grid[1] - grid[0] * width / height) < 1), None)


def _own_size(values: Mapping[str, Any], *, asking: bool) -> Grid | None:
    """Return the rows and columns that a function's own locals tell."""
    for names in SIZES:
        if not set(names) <= set(values):
            continue
        found = values[names[0 if asking else -1]] if "size" in names[0] else [values[name] for name in names]
        if isinstance(found, (tuple, list, torch.Size)) and len(found) == 2 and all(isinstance(n, int) for n in found):  # noqa: PLR2004  # rows and columns
            return pair(found)
    return None


def _naflex(given: Mapping[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Give the coordinates of patches, and which of them are real."""
    whole = next((value for value in given.values() if isinstance(value, dict)), given)
    coordinates = whole.get("patch_coord")
    if isinstance(coordinates, torch.Tensor):
        valid = whole.get("patch_valid")
        yield coordinates, valid if isinstance(valid, torch.Tensor) else None


def prefix_names(transformer: Any) -> tuple[str, ...]:
    """Return the names of the tokens in front of the patches, in timm's order."""
    holder = getattr(transformer, "embeds", transformer)
    tokens = ("cls_token", "cls_token_0", "class_token", "class_embedding")
    names = ["cls"] if any(getattr(holder, name, None) is not None for name in tokens) else []
    if getattr(holder, "dist_token", None) is not None:
        names.append("dist")
    registers = next((r for n in ("reg_token", "register_tokens") if (r := getattr(holder, n, None)) is not None), None)
    names += [f"reg{i}" for i in range(1, 1 + (0 if registers is None else registers.shape[1]))]
    expected = getattr(transformer, "num_prefix_tokens", len(names))
    return (*names, *(f"prefix{i}" for i in range(len(names), expected)))[:expected]


def seen_shape(value: Any) -> Any:
    """Return what is kept of an input: the shape of an image, or where its patches lie."""
    if isinstance(value, dict):
        return {name: seen_shape(part) for name, part in value.items() if name in {"patch_coord", "patch_valid"}}
    if not isinstance(value, torch.Tensor):
        return None
    return tuple(value.shape) if value.is_floating_point() else value.detach()
